"""The house rules of MQL sources that need the structure of the code: what g++ takes and MetaEditor does not, or not for sure."""

import re
from collections.abc import Iterator
from pathlib import Path

import tree_sitter_cpp
from tree_sitter import Language, Node, Parser

_PARSER = Parser(Language(tree_sitter_cpp.language()))
_FORBIDDEN = {
    "lambda_expression": "a lambda",
    "for_range_loop": "a range-for",
    "placeholder_type_specifier": "auto",
    "initializer_list": "a brace initialiser",
    "try_statement": "try",
    "throw_statement": "throw",
    "goto_statement": "goto",
    "labeled_statement": "a label",
    "namespace_definition": "a namespace",
    "using_declaration": "using",
    "alias_declaration": "using",
    "type_definition": "typedef",
    "qualified_identifier": "::",
    "pointer_declarator": "a pointer",
    "abstract_pointer_declarator": "a pointer",
    "pointer_expression": "an address",
    "new_expression": "new",
    "delete_expression": "delete",
    "nullptr": "nullptr",
    "null": "NULL",
    "template_declaration": "a template",
    "template_type": "a template",
    "preproc_if": "#if with an expression",
    "preproc_elif": "#if with an expression",
    "concatenated_string": "two texts in a row",
    "raw_string_literal": "a raw text",
    "attribute_declaration": "an attribute",
    "linkage_specification": "extern",
    "static_assert_declaration": "static_assert",
    "friend_declaration": "friend",
    "union_specifier": "a union",
    "comma_expression": "two expressions in one",
    "decltype": "decltype",
    "sizeof_expression": "sizeof",
    "operator_name": "an operator",
    "storage_class_specifier": "a storage class",
    "variadic_parameter": "a variable number of parameters",
    "rvalue_reference": "an rvalue reference",
}
_TYPES = {
    "size_t", "ssize_t", "int8_t", "int16_t", "int32_t", "int64_t", "uint8_t", "uint16_t", "uint32_t", "uint64_t", "intptr_t",
    "uintptr_t", "ptrdiff_t", "wchar_t", "char16_t", "char32_t", "charptr_t", "FILE", "va_list", "HANDLE", "DWORD", "BOOL",
}  # fmt: skip
_WHOLE = {"int", "long", "uint", "ulong", "short", "ushort", "char", "uchar", "double", "float"}
_WORDS = {"and", "or", "not", "xor", "bitand", "bitor", "compl", "and_eq", "or_eq", "not_eq", "xor_eq"}
_PLAIN = _WHOLE | {"bool", "string", "datetime", "color", "void"}


def findings(path: Path, objects: set[str], enums: set[str]) -> list[str]:
    """Return what breaks a rule, each with its line; `objects` and `enums` are the types all sources declare together."""
    source = path.read_text(encoding="ascii")
    # What comes before a declaration only in MQL, and lines that name a file the MQL way, are blanked.
    source = re.sub(r"^s?input (?=\w)", lambda found: " " * len(found[0]), source, flags=re.MULTILINE)
    source = re.sub(r"^#(?:import|property)\b.*$", lambda found: " " * len(found[0]), source, flags=re.MULTILINE)
    root = _PARSER.parse(source.encode()).root_node
    found: list[tuple[int, str]] = []
    functions = {_text(name): each.start_byte for each in root.children for name in _function_name(each)}
    for node in _every(root):
        for why in (*_form(node), *_objects(node, objects), *_numbers(node, enums)):
            found.append((node.start_point[0] + 1, why))
        if node.type == "call_expression":
            callee = node.child_by_field_name("function")
            if callee is not None and callee.type == "identifier" and functions.get(_text(callee), -1) > node.start_byte:
                found.append((node.start_point[0] + 1, f"{_text(callee)} is used before it is defined"))
    return [f"line {line}: {why}" for line, why in sorted(set(found))]


def declared(paths: list[Path]) -> tuple[set[str], set[str]]:
    """Return the names of all classes and structures, and of all enumerations, that some sources declare."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
    objects = set(re.findall(r"^\s*(?:class|struct)\s+(\w+)", text, re.MULTILINE))
    mql = {"MqlTick", "MqlTradeRequest", "MqlTradeResult", "MqlDateTime", "MqlRates"}
    return objects | mql, set(re.findall(r"^\s*enum\s+(\w+)", text, re.MULTILINE))


def _every(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _every(child)


def _text(node: Node | None) -> str:
    return "" if node is None or node.text is None else node.text.decode()


def _function_name(node: Node) -> list[Node]:
    if node.type.startswith("preproc_if"):
        return [name for child in node.children for name in _function_name(child)]
    declarator = node.child_by_field_name("declarator")
    if node.type != "function_definition" or declarator is None or declarator.type != "function_declarator":
        return []
    name = declarator.child_by_field_name("declarator")
    return [name] if name is not None else []


def _form(node: Node) -> Iterator[str]:
    kind = node.type
    if kind == "ERROR" or node.is_missing:
        yield "cannot be read"
    if kind in _FORBIDDEN and not (kind == "storage_class_specifier" and _text(node) == "static"):
        yield _FORBIDDEN[kind]
    if kind == "enum_specifier" and node.child_by_field_name("name") is None:
        yield "an enum without a name"
    if kind == "base_class_clause" and sum(child.type == "type_identifier" for child in node.children) > 1:
        yield "multiple inheritance"
    if kind == "field_expression" and any(child.type == "->" for child in node.children):
        yield "->"
    if kind == "sized_type_specifier" and _text(node) not in _PLAIN:
        yield "a type of C"
    if kind in ("type_identifier", "primitive_type") and _text(node) in _TYPES:
        yield f"a type of C, {_text(node)}"
    if kind in _WORDS:
        yield f"{kind} in place of a sign"
    if kind == "number_literal" and re.search(r"'|(?<!0x)(?<![xX0-9a-fA-F])[uUlL]|^\d+[uUlL]+$|^0[bB]", _text(node)):
        yield "a number with a suffix"
    if kind == "string_literal" and not _text(node).startswith('"'):
        yield "a text with a prefix"
    if kind == "reference_declarator" and _inside(node, "compound_statement") and not _inside(node, "parameter_declaration"):
        yield "a local reference"
    if kind == "field_declaration" and node.child_by_field_name("default_value") is not None:
        yield "a member with a first value"


def _inside(node: Node, kind: str) -> bool:
    parent = node.parent
    while parent is not None:
        if parent.type == kind:
            return True
        parent = parent.parent
    return False


def _objects(node: Node, objects: set[str]) -> Iterator[str]:
    if node.type in ("parameter_declaration", "optional_parameter_declaration"):
        declarator = node.child_by_field_name("declarator")
        by_value = declarator is None or declarator.type != "reference_declarator"
        if _text(node.child_by_field_name("type")) in objects and by_value:
            yield "an object by value"
    if node.type == "function_definition" and _text(node.child_by_field_name("type")) in objects:
        yield "an object returned by value"


def _numbers(node: Node, enums: set[str]) -> Iterator[str]:
    """Find numbers that are given what is an enumeration's without a cast."""
    if node.type == "init_declarator":
        declaration = node.parent
        value = node.child_by_field_name("value")
        kind = _text(declaration.child_by_field_name("type")) if declaration is not None else ""
        if kind in _WHOLE and value is not None and _enum_of(value, node, enums):
            yield "an enum as a number without a cast"
        if _is_enum(kind, enums) and value is not None and value.type == "number_literal":
            yield "a number as an enum without a cast"
    if node.type == "binary_expression":
        sides = [node.child_by_field_name(side) for side in ("left", "right")]
        numbers = [side for side in sides if side is not None and side.type == "number_literal"]
        if numbers and any(side is not None and _enum_of(side, node, enums) for side in sides):
            yield "an enum beside a number without a cast"


def _is_enum(kind: str, enums: set[str]) -> bool:
    return kind in enums or kind.startswith("ENUM_")


def _enum_of(value: Node, near: Node, enums: set[str]) -> bool:
    """Whether a value is a variable that the function around it declares as an enumeration's, or a cast to one."""
    if value.type == "cast_expression":
        return _is_enum(_text(value.child_by_field_name("type")), enums)
    if value.type != "identifier":
        return False
    around: Node | None = near
    while around is not None and around.type != "function_definition":
        around = around.parent
    if around is None:
        return False
    name = _text(value)
    for node in _every(around):
        if node.type in ("declaration", "parameter_declaration") and _is_enum(_text(node.child_by_field_name("type")), enums):
            declarator = node.child_by_field_name("declarator")
            if declarator is not None and any(_text(each) == name for each in _every(declarator) if each.type == "identifier"):
                return True
    return False
