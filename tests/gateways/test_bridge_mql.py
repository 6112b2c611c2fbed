"""The shared pieces of our Expert Advisors, compiled and run, and the house rules of their sources."""

import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path

import pytest

from copier.gateways.bridge_files import file_name_of
from copier.gateways.comments import parent_in, tag_in
from copier.gateways.mt5_codes import RETCODES, Outcome
from copier.gateways.paper_codes import REFUSALS
from tests.gateways.conftest import SANITIZED
from tests.mql.build import MQL, SANITIZE, build
from tests.mql.lint import findings, sources
from tests.mql.stage import CARRIERS, need_gxx


def compiled(test):
    return pytest.mark.server(pytest.mark.sanitized(test))


@pytest.fixture
def probe(tmp_path: Path):
    need_gxx()
    program = build(MQL.parent / "tests" / "mql" / "probe.mq5")

    def run(task: str, text: str, **inputs: int) -> str:
        (tmp_path / "given").write_text(text, encoding="utf-8", newline="")
        names = {"MQL_INPUT_Task": task} | {f"MQL_INPUT_{name}": str(value) for name, value in inputs.items()}
        environment = {"PATH": os.environ["PATH"], "MQL_COMMON": str(tmp_path), **names}
        done = subprocess.run([str(program)], env=environment, capture_output=True, text=True, timeout=10)
        assert done.returncode == 0, done.stderr
        return (tmp_path / "made").read_text(encoding="utf-8")

    return run


@compiled
@pytest.mark.parametrize("step", [1, 2, 3, 5, 1000])
def test_lines_come_out_whole_however_their_bytes_are_cut(probe, step):
    lines = ["a", "", "Gr\u00f6\u00dfe \u20ac \U0001f600", '{"id":1}', "x" * 500]
    made = probe("lines", "\n".join(lines) + "\nnot whole yet", Step=step)
    assert [json.loads(line) for line in made.splitlines()] == lines


@compiled
def test_a_line_ended_the_windows_way_has_no_trace_of_it(probe):
    assert json.loads(probe("lines", "one\r\n")) == "one"


@compiled
@pytest.mark.parametrize("text", ["plain", 'a "quote"', "back\\slash", "tab\tand\nline", "\u20ac \U0001f600", "\x01", "/", ""])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_text_of_json_is_read_as_python_wrote_it(probe, text, ascii_only):
    whole = 2**53 + 1
    frame = {"text": text, "whole": whole, "number": -1.5e-3, "truth": True, "absent": None, "below": {"list": [1, 42]}}
    made = probe("values", json.dumps(frame, ensure_ascii=ascii_only)).splitlines()
    assert [json.loads(made[0]), *made[1:]] == [text, str(whole), "-0.0015", "true", "false", "42"]


@compiled
@pytest.mark.parametrize(
    "text", ["", "[]", "1", "{", '{"a"}', '{"a":}', '{"a":1', '{"a":1}}', '{"a":tru}', '{"a":"\n"}', '{"a":"\\x"}', "[" * 50]
)
def test_what_is_no_frame_is_not_read_as_one(probe, text):
    assert probe("values", text) == "unreadable\n"


@compiled
@pytest.mark.parametrize("text", ["", "x", "terminal|5001@Broker|" + "0f" * 16, "\u20ac" * 100])
def test_a_proof_is_the_hmac_python_makes(probe, text):
    assert probe("proof", text).strip() == hmac.new(b"key", text.encode(), hashlib.sha256).hexdigest()


@compiled
@pytest.mark.parametrize(
    "comment",
    ["mc00010002", "mc00010002 more", "mc00010002[sl]", "mc0001", "mc0001000200030004", "mc00010002x3456789", "MC00010002",
     "mc0001000_", "", "other", "mc00010002-"],
)  # fmt: skip
def test_a_tag_is_read_back_by_the_same_rule_as_elsewhere(probe, comment):
    assert probe("tag", comment).strip() == tag_in(comment)


@compiled
@pytest.mark.parametrize("comment", ["from #42", "split from #42", "from #", "from #42x", "to #42", ""])
def test_a_parent_is_read_back_by_the_same_rule_as_elsewhere(probe, comment):
    assert int(probe("ticket", comment)) == (parent_in(comment) or 0)


@compiled
def test_a_moment_keeps_its_second_on_the_way_there_and_back(probe):
    assert probe("moment", "2024-02-29T23:59:58.123456Z").strip() == "2024-02-29T23:59:58.000Z"


@compiled
@pytest.mark.parametrize("account", ["5001@Broker-Demo", "1@A/B\\C:D*E", "2@Br\u00f6ker Ltd."])
def test_both_ends_call_an_accounts_folder_the_same(probe, account):
    assert probe("name", account).strip() == file_name_of(account)


# sources


@pytest.mark.parametrize("path", sources(MQL), ids=lambda path: path.name)
def test_a_source_keeps_to_what_both_compilers_take(path: Path) -> None:
    assert findings(path) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("auto x = 1;", "auto"), ("std::string s;", "::"), ("int *p;", "pointer"), ("p->x = 1;", "->"), ("goto end;", "goto"),
        ("try { }", "try"), ("#if X > 1", "#if"), ("int a[2] = {1, 2};", "brace"), ("int64_t x;", "int64_t"),
        ("x = nullptr;", "nullptr"),
        ("int a[], b[];", "one declarator"), ("string s = (string)1;", "cast"), ("size_t n;", "size_t"), ("// \u20ac", "ASCII"),
    ],
)  # fmt: skip
def test_the_lint_finds_what_metaeditor_would_not_take(tmp_path: Path, line: str, found: str) -> None:
    source = tmp_path / "bad.mqh"
    source.write_text(f"void F(void)\n  {{\n   {line}\n  }}\n", encoding="utf-8")
    assert any(found in finding for finding in findings(source)), findings(source)


def test_every_return_code_means_the_same_in_the_expert_advisor_as_in_python() -> None:
    text = (MQL / "mt5" / "Trade5.mqh").read_text(encoding="ascii")
    for code, known in RETCODES.items():
        if known.outcome is Outcome.REJECTED:
            assert f'case {code}: reason = "{known.reason}"' in text
        elif known.outcome is Outcome.UNKNOWN:
            assert f"case {code}:" not in text
        else:
            assert f"case {code}: words" in text


def test_every_refusal_of_an_mt4_broker_is_known_to_the_expert_advisor() -> None:
    text = (MQL / "mt4" / "Trade4.mqh").read_text(encoding="ascii")
    assert all(f"case {refusal.mt4}:" in text for refusal in REFUSALS.values() if refusal.mt4)


def test_no_mt4_error_that_may_have_executed_passes_for_a_refusal() -> None:
    text = (MQL / "mt4" / "Trade4.mqh").read_text(encoding="ascii")
    assert not any(f"case {error}:" in text for error in (0, 1, 6, 128, 142, 143, 144))


# sanitizers


@compiled
@pytest.mark.parametrize(("more", "dies"), [(0, False), (1, True)])
def test_a_sanitized_program_dies_of_a_mistake_and_says_so(more, dies, tmp_path):
    need_gxx()
    source = tmp_path / "mistake.mq5"
    source.write_text(
        """#property strict
input int More = 0;
int OnInit(void)
  {
   int most = 2147483647;
   Print("sum: ", most + More);
   return(INIT_FAILED);
  }
void OnTimer(void) { }
void OnDeinit(const int reason) { }
""",
        encoding="ascii",
    )
    program = build(source, *SANITIZE.split())
    environment = {"PATH": os.environ["PATH"], "MQL_INPUT_More": str(more)}
    done = subprocess.run([str(program)], env=environment, capture_output=True, text=True, timeout=10)
    assert ("runtime error: signed integer overflow" in done.stderr) is dies
    assert ("sum: 2147483647" in done.stderr) is not dies


def test_every_carrier_is_tried_on_sanitized_programs():
    assert {name.split("-")[2] for name in SANITIZED} == {way.partition("-")[0] for way in CARRIERS}
    assert {name.split("-")[1] for name in SANITIZED} == {"mt4", "mt5"}
