"""Bundle: do the modules of the board work as one script, and is what cannot work refused?"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.lab.classroom.replay import NO_NODE, NODE
from wsdemo.lab.classroom.bundle import bundle, modules_of


def written(folder: Path, **modules: str) -> Path:
    """Write modules into a folder."""
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text, encoding="utf-8")
    return folder


def test_the_board_is_one_script_without_imports_and_exports() -> None:
    """Its modules come after those that they need."""
    script = bundle()
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    modules = modules_of("board.js")
    assert modules.index("model.js") < modules.index("board.js") == len(modules) - 1


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
def test_node_takes_the_script_of_the_board(tmp_path: Path) -> None:
    """As a module: no name is declared twice, and nothing is cut off."""
    script = tmp_path / "bundle.mjs"
    script.write_text(bundle(), encoding="utf-8")
    assert NODE is not None
    told = subprocess.run([NODE, "--check", script], capture_output=True, text=True, timeout=30)
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.skipif(NODE is None, reason=NO_NODE)
def test_a_bundle_does_what_its_modules_do(tmp_path: Path) -> None:
    """A module that two others need is there once."""
    base = "let calls = 0;\nexport function one() { calls += 1; return calls; }\n"
    left = 'import { one } from "./base.js";\nexport const left = () => one();\n'
    right = (
        'import {\n  one,\n} from "./base.js";\nexport class Right { get() { return one(); } }\n'
    )
    main = (
        'import { left } from "./left.js";\nimport { Right } from "./right.js";\n'
        "export async function run() { return [left(), new Right().get()]; }\n"
    )
    folder = written(tmp_path, base=base, left=left, right=right, main=main)
    assert modules_of("main.js", folder) == ["base.js", "left.js", "right.js", "main.js"]
    script = f"{bundle('main.js', folder)}\nrun().then((all) => console.log(all.join()));"
    assert NODE is not None
    told = subprocess.run([NODE, "-e", script], capture_output=True, text=True, timeout=30)
    assert told.stdout.strip() == "1,2"


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ("const x = 1;\n", 'import { y } from "./a.js";\nconst x = 2;\n', "both have a top-level"),
        ("", 'import * as a from "./a.js";\n', "cannot contain 'import"),
        ("", 'import a from "./a.js";\n', "cannot contain 'import"),
        ("", 'import { x as y } from "./a.js";\n', "cannot rename"),
        ("", "export default 3;\n", "cannot contain 'export default"),
        ("", "export { x };\n", "cannot contain 'export"),
        ('import { y } from "./b.js";\n', 'import { x } from "./a.js";\n', "import each other"),
    ],
)
def test_what_cannot_be_put_together_is_refused(tmp_path: Path, a: str, b: str, words: str) -> None:
    """In words, and not by a page that does nothing."""
    with pytest.raises(ValueError, match=re.escape(words)):
        bundle("b.js", written(tmp_path, a=a, b=b))
