//! `[mcp.NAME]`: servers of the Model Context Protocol, whose tools are called
//! `NAME__TOOL`.

use std::ops::Range;
use std::path::Path;

use super::document::{Problems, Section};

/// A server as the file has it.
#[derive(Clone, Debug)]
pub(super) enum ServerDraft {}

/// Reads a table; `None` when it is too wrong to go on with.
pub(super) fn read(
    (_, place): (&str, &Range<usize>),
    section: Section<'_>,
    _directory: &Path,
    problems: &mut Problems,
) -> Option<ServerDraft> {
    problems.error(place, &section.path, "this version speaks to no MCP server");
    None
}
