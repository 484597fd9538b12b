//! Names that producers and clients choose: which are allowed.

/// The longest id, source or room id, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Whether `text` may stand where an id does: 1 to [`MAX_NAME_BYTES`] bytes
/// without white space or control characters.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME_BYTES
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_printable() {
        for good in ["a", "inv-1.2*>", "büro", &"x".repeat(128)] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a\n",
            "\u{7f}",
            "\u{2003}",
            &"x".repeat(129),
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }
}
