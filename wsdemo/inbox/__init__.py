"""Durable inbox: which messages has a user not had yet, although nobody was there to take them?"""

from wsdemo.inbox.devices import DeviceInbox
from wsdemo.inbox.store import SCRIPTS, Inbox, InboxPage, StoreOutcome, StoreReply

__all__ = ["SCRIPTS", "DeviceInbox", "Inbox", "InboxPage", "StoreOutcome", "StoreReply"]
