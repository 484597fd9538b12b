//! Splits a command line into words by POSIX quoting, and nothing more: no
//! variables, no globs, no operators, no comments. (The libraries for this drop
//! what follows a `#`, and a word that vanishes silently is worse than one that
//! is passed on.)

/// Why a line has no words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A quotation mark has no counterpart.
    #[error("the command line ends within a quotation")]
    Quotation,
    /// There is nothing behind the last backslash.
    #[error("the command line ends with a backslash")]
    Backslash,
    /// No program can be told a NUL byte.
    #[error("the command has a NUL byte")]
    Nul,
    /// There is not a single word.
    #[error("the command is empty")]
    Empty,
}

/// A character of a word, and whether it was quoted.
pub(crate) type Marked = (char, bool);

/// Splits a line into words.
///
/// Words are separated by blanks, tabs and line ends. A backslash quotes the
/// next character and joins lines; single quotes quote everything; within
/// double quotes a backslash quotes only `$`, `` ` ``, `"`, itself and a line
/// end. All other characters, `#`, `$`, `|` and `~` among them, are themselves.
///
/// # Errors
/// When a quotation does not end, or there is no word.
pub fn split(line: &str) -> Result<Vec<String>, Malformed> {
    let words = split_marked(line)?;
    let plain = |word: Vec<Marked>| word.into_iter().map(|(letter, _)| letter).collect();
    Ok(words.into_iter().map(plain).collect())
}

/// Splits a line like [`split`], and tells which characters were quoted.
pub(crate) fn split_marked(line: &str) -> Result<Vec<Vec<Marked>>, Malformed> {
    if line.contains('\0') {
        return Err(Malformed::Nul);
    }
    let mut words = Vec::new();
    let mut word: Option<Vec<Marked>> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next().ok_or(Malformed::Quotation)? {
                        '\'' => break,
                        quoted => word.push((quoted, true)),
                    }
                }
            }
            '"' => double_quoted(&mut letters, word.get_or_insert_default())?,
            '\\' => match letters.next().ok_or(Malformed::Backslash)? {
                '\n' => {}
                quoted => word.get_or_insert_default().push((quoted, true)),
            },
            plain => word.get_or_insert_default().push((plain, false)),
        }
    }
    words.extend(word);
    if words.is_empty() {
        return Err(Malformed::Empty);
    }
    Ok(words)
}

fn double_quoted(
    letters: &mut std::str::Chars<'_>,
    word: &mut Vec<Marked>,
) -> Result<(), Malformed> {
    loop {
        match letters.next().ok_or(Malformed::Quotation)? {
            '"' => return Ok(()),
            '\\' => match letters.next().ok_or(Malformed::Quotation)? {
                '\n' => {}
                quoted @ ('$' | '`' | '"' | '\\') => word.push((quoted, true)),
                other => word.extend([('\\', true), (other, true)]),
            },
            quoted => word.push((quoted, true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quoting_is_that_of_the_shell() {
        let cases: &[(&str, &[&str])] = &[
            ("ls -l", &["ls", "-l"]),
            ("  a\tb\nc ", &["a", "b", "c"]),
            ("echo 'a b' \"c d\" e\\ f", &["echo", "a b", "c d", "e f"]),
            (r#"x "a\"b\\c\$d\n" 'a\b'"#, &["x", r#"a"b\c$d\n"#, r"a\b"]),
            ("a''b \"\" ''", &["ab", "", ""]),
            ("joined\\\nlines", &["joinedlines"]),
            (
                "git log #12 ; rm $HOME | *",
                &["git", "log", "#12", ";", "rm", "$HOME", "|", "*"],
            ),
            ("ü 'ß'x", &["ü", "ßx"]),
        ];
        for (line, words) in cases {
            assert_eq!(split(line).unwrap(), *words, "{line}");
        }
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        assert_eq!(split("a 'b"), Err(Malformed::Quotation));
        assert_eq!(split("a \"b\\"), Err(Malformed::Quotation));
        assert_eq!(split("a \\"), Err(Malformed::Backslash));
        assert_eq!(split(" \n"), Err(Malformed::Empty));
        assert_eq!(split("a\0b"), Err(Malformed::Nul));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Lines without characters that mean more to a shell than quoting.
        #[test]
        fn a_shell_splits_alike(line in r#"x( |'[a-z $#]{0,4}'|"[a-z' #]{0,4}"|\\[ "'\\a$]|[a-z]){0,12}"#) {
            let script = format!("printf '%s\\0' {line}");
            let shell = Command::new("sh").args(["-fc", &script]).output().unwrap();
            let expected: Vec<&str> = str::from_utf8(&shell.stdout).unwrap().split_terminator('\0').collect();
            // Within double quotes a shell would expand a `$`; there is none.
            prop_assert_eq!(split(&line).unwrap(), expected);
        }
    }
}
