"""Our declaration of XLA's binary interface against the header that jaxlib brings."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

jax = pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")

ROOT = Path(__file__).parents[1]
COMPILER = shutil.which("c++") or shutil.which("g++")
HEADER = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"

#: Ours: theirs.
STRUCTURES = {
    "Extension": "XLA_FFI_Extension_Base",
    "Version": "XLA_FFI_Api_Version",
    "ErrorCreate": "XLA_FFI_Error_Create_Args",
    "StreamGet": "XLA_FFI_Stream_Get_Args",
    "Buffer": "XLA_FFI_Buffer",
    "ByteSpan": "XLA_FFI_ByteSpan",
    "Scalar": "XLA_FFI_Scalar",
    "Arguments": "XLA_FFI_Args",
    "Results": "XLA_FFI_Rets",
    "Attributes": "XLA_FFI_Attrs",
    "Api": "XLA_FFI_Api",
    "CallFrame": "XLA_FFI_CallFrame",
    "Metadata": "XLA_FFI_Metadata",
    "MetadataExtension": "XLA_FFI_Metadata_Extension",
}
#: Members that have other names there.
RENAMED = {
    "error_create": "XLA_FFI_Error_Create",
    "error_get_message": "XLA_FFI_Error_GetMessage",
    "error_destroy": "XLA_FFI_Error_Destroy",
    "handler_register": "XLA_FFI_Handler_Register",
    "stream_get": "XLA_FFI_Stream_Get",
}
#: Structures that we make, and XLA reads to their end.
WHOLE = ("Extension", "Version", "ErrorCreate", "StreamGet", "Scalar", "ByteSpan")
CONSTANTS = {
    "MAJOR": "XLA_FFI_API_MAJOR",
    "S64": "XLA_FFI_DataType_S64",
    "F32": "XLA_FFI_DataType_F32",
    "F64": "XLA_FFI_DataType_F64",
    "C128": "XLA_FFI_DataType_C128",
    "BUFFER": "XLA_FFI_ArgType_BUFFER",
    "SCALAR": "XLA_FFI_AttrType_SCALAR",
    "INVALID_ARGUMENT": "XLA_FFI_Error_Code_INVALID_ARGUMENT",
    "RESOURCE_EXHAUSTED": "XLA_FFI_Error_Code_RESOURCE_EXHAUSTED",
    "INTERNAL": "XLA_FFI_Error_Code_INTERNAL",
    "EXECUTE": "XLA_FFI_ExecutionStage_EXECUTE",
    "METADATA": "XLA_FFI_Extension_Metadata",
}

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
    pytest.mark.skipif(not HEADER.exists(), reason="this jaxlib brings no headers"),
]


def declared():
    """Structure -> its members, in our header."""
    text = (ROOT / "csrc" / "jax" / "xla_ffi.hpp").read_text()
    text = re.sub(r"//[^\n]*", "", text)
    found = {}
    for name, base, body in re.findall(r"struct (\w+)( : Base)? \{(.*?)\n\};", text, re.DOTALL):
        members = ["struct_size", "extension_start"] if base else []
        for statement in body.split(";")[:-1]:
            function = re.search(r"\(\*(\w+)\)", statement)
            members.append(function[1] if function else re.search(r"(\w+)\s*$", statement)[1])
        found[name] = members
    return found


def test_every_structure_is_compared():
    assert declared().keys() - {"Base"} == STRUCTURES.keys()


def test_layout_and_constants(tmp_path):
    checks = []
    for name, members in declared().items():
        if name == "Base":
            continue
        ours, theirs = f"dmftcore::xla::{name}", STRUCTURES[name]
        for member in members:
            other = RENAMED.get(member, member)
            checks += [
                f"offsetof({ours}, {member}) == offsetof({theirs}, {other})",
                f"sizeof({ours}::{member}) == sizeof({theirs}::{other})"
                # What grows at its end, inside another structure.
                if member != "metadata"
                else "true",
            ]
        if name in WHOLE:
            checks.append(f"sizeof({ours}) == sizeof({theirs})")
    checks += [f"dmftcore::xla::{ours} == {theirs}" for ours, theirs in CONSTANTS.items()]
    lines = ["#include <cstddef>", f'#include "{HEADER}"', '#include "jax/xla_ffi.hpp"']
    lines += [f'static_assert({check}, "");' for check in checks]
    # That the comparison can fail.
    wrong = "static_assert(sizeof(dmftcore::xla::Buffer) == sizeof(XLA_FFI_ByteSpan));"
    for extra, passes in (("", True), (wrong, False)):
        source = tmp_path / "compare.cpp"
        source.write_text("\n".join([*lines, extra, ""]))
        flags = ["-std=c++17", "-w", "-fsyntax-only", f"-I{ROOT / 'csrc'}"]
        compiled = subprocess.run([COMPILER, *flags, source], capture_output=True, text=True)
        assert (compiled.returncode == 0) == passes, compiled.stderr
    assert len(checks) > 80


def test_the_newest_known_version_is_not_older_than_this_one():
    """Fails with a jaxlib that is newer than what was compared: run, look, and raise the number."""
    minor = int(re.search(r"#define XLA_FFI_API_MINOR (\d+)", HEADER.read_text())[1])
    ours = (ROOT / "csrc" / "jax" / "xla_ffi.hpp").read_text()
    oldest, newest = re.search(r"OLDEST_MINOR = (\d+), NEWEST_MINOR = (\d+)", ours).groups()
    assert int(oldest) <= minor <= int(newest)
