"""Cluster: how do several real gateways, their users and a Redis live in one process?"""
