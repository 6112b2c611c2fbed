"""The house rules of MQL sources hold, and each of them catches what it forbids."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mql.build import HERE, MQL
from tests.mql.lint import sources
from tests.mql.structure import declared, findings

PATHS = [*sources(MQL), *sources(HERE)]
OBJECTS, ENUMS = declared(PATHS)
GOOD = """
enum Way { WAY_IN = 0, WAY_OUT = 1 };
struct Trade { int ticket; double lots; };
class Carrier
  {
private:
   int               m_count;
public:
                     Carrier(void) { m_count = 0; }
   virtual bool      Send(const Trade &trade, uchar &bytes[]) { return((int)trade.ticket > m_count); }
  };
class Pipe : public Carrier { };
int Count(const Way way, const string text)
  {
   static int calls = 0;
   calls++;
   Trade trades[];
   ArrayResize(trades, 0x10);
   return((int)way + StringLen(text) + calls);
  }
int Twice(void) { return(2 * Count(WAY_IN, "text")); }
"""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_a_source_keeps_to_the_subset_both_compilers_take(path: Path) -> None:
    assert findings(path, OBJECTS, ENUMS) == []


@pytest.fixture
def found(tmp_path: Path) -> Callable[[str], list[str]]:
    def look(text: str) -> list[str]:
        path = tmp_path / "probe.mqh"
        path.write_text(text, encoding="ascii")
        return findings(path, *declared([path]))

    return look


def test_what_is_allowed_is_let_through(found: Callable[[str], list[str]]) -> None:
    assert found(GOOD) == []


BODY = [
    ("std::string s;", "::"), ("auto x = 1;", "auto"), ("int f = [](int a) { return a; }(1);", "a lambda"),
    ("for(int each : list) Count(WAY_IN, \"\");", "a range-for"), ("int x = p->count;", "->"), ("int *p;", "a pointer"),
    ("int x = *p;", "an address"), ("Take(&x);", "an address"), ("Trade &other = trade;", "a local reference"),
    ("x = nullptr;", "nullptr"), ("x = NULL;", "NULL"), ("int x = {1};", "a brace initialiser"),
    ("int x{1};", "a brace initialiser"),
    ("int a[2] = {1, 2};", "a brace initialiser"), ("try { x = 1; } catch(...) { }", "try"), ("throw 1;", "throw"),
    ("goto end;", "goto"), ("end: x = 1;", "a label"), ("typedef int whole;", "typedef"), ("using whole = int;", "using"),
    ("size_t n = 1;", "a type of C, size_t"), ("int64_t n = 1;", "a type of C, int64_t"), ("unsigned int n = 1;", "a type of C"),
    ("long long n = 1;", "a type of C"), ("wchar_t c;", "a type of C, wchar_t"), ("Carrier c = new Carrier();", "new"),
    ("delete c;", "delete"), ("int n = sizeof(int);", "sizeof"), ("string s = \"a\" \"b\";", "two texts in a row"),
    ("string s = L\"a\";", "a text with a prefix"), ("string s = R\"(a)\";", "a raw text"),
    ("int n = 10L;", "a number with a suffix"),
    ("int n = 1'000;", "a number with a suffix"), ("bool b = x and y;", "and in place of a sign"),
    ("i = 1, j = 2;", "two expressions in one"),
    ("enum { ONE, TWO };", "an enum without a name"), ("Way way = WAY_IN; int n = way;", "an enum as a number without a cast"),
    ("Way way = 1;", "a number as an enum without a cast"),
    ("Way way = WAY_IN; bool b = way == 1;", "an enum beside a number without a cast"),
    ("int n = Later();", "Later is used before it is defined"), ("register int n = 1;", "a storage class"),
    ("extern int n;", "a storage class"), ("vector<int> v;", "a template"),
    ("int n = ;", "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "why"), BODY)
def test_a_rule_catches_it_in_a_function(found: Callable[[str], list[str]], line: str, why: str) -> None:
    text = f"{GOOD}void Probe(void)\n  {{\n   {line}\n  }}\nint Later(void) {{ return(1); }}\n"
    said = found(text)
    assert any(each.endswith(f": {why}") for each in said), said


OUTSIDE = [
    ("#if X > 1\nint n;\n#endif", "#if with an expression"), ("namespace n { int x; }", "a namespace"),
    ("template<typename T> T F(T x) { return(x); }", "a template"),
    ("class C : public Carrier, public Pipe { };", "multiple inheritance"),
    ("void F(Trade trade) { }", "an object by value"), ("void F(const Carrier carrier) { }", "an object by value"),
    ("Trade F(void) { Trade t; return(t); }", "an object returned by value"), ("void F(int *x) { }", "a pointer"),
    ("class C { int m_x = 1; };", "a member with a first value"),
    ("class C { bool operator==(const Trade &t) { return(true); } };", "an operator"),
    ("union U { int a; };", "a union"), ("class C { friend class D; };", "friend"), ("static_assert(1 == 1);", "static_assert"),
    ("extern \"C\" int F(void);", "extern"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), OUTSIDE)
def test_a_rule_catches_it_outside_functions(found: Callable[[str], list[str]], text: str, why: str) -> None:
    said = found(f"{GOOD}{text}\n")
    assert any(each.endswith(f": {why}") for each in said), said
