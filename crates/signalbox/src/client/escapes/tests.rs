//! What is shown, and what is not.

use super::*;

fn passed(escapes: Escapes, answers: bool, bytes: &[u8]) -> String {
    let mut filter = Filter::new(escapes, answers);
    let out = filter.pass(bytes, &mut Modes::default());
    String::from_utf8_lossy(&out).into_owned()
}

fn safe(text: &str) -> String {
    passed(Escapes::Safe, false, text.as_bytes())
}

#[test]
fn what_draws_passes() {
    for text in [
        "plain, ümläut, 日本語 \u{a0}«\r\n\t\x08",
        "\x1b[31;1mred\x1b[0m",
        "\x1b[38:2:1:2:3m",
        "\x1b[2J\x1b[10;20H\x1b[K",
        "\x1b[?1049h\x1b[?25l\x1b[?2004h",
        "\x1b(0lqk\x1b(B",
        "\x1b7\x1b8\x1bM",
        "\x1b[4 q\x1b[!p",
    ] {
        assert_eq!(safe(text), text);
    }
}

#[test]
fn what_makes_a_terminal_act_does_not() {
    for (hostile, left) in [
        // Clipboard, title, link, notification, image.
        ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
        ("a\x1b]0;title\x1b\\b", "ab"),
        ("a\x1b]8;;http://x\x07link\x1b]8;;\x07b", "alinkb"),
        ("a\x1bP+q544e\x1b\\b", "ab"),
        ("a\x1b_Gpayload\x1b\\b", "ab"),
        ("a\x1bktmux\x1b\\b", "ab"),
        // Questions that the terminal would answer by typing.
        ("a\x1b[6nb", "ab"),
        ("a\x1b[cb\x1b[>c\x1b[=c", "ab"),
        ("a\x1b[21tb", "ab"),
        ("a\x1b[?1$pb", "ab"),
        ("a\x1b[>qb\x1b[?u", "ab"),
        ("a\x1bZb\x05", "ab"),
        // Printing, leaving UTF-8, mouse reports.
        ("a\x1b[5ib", "ab"),
        ("a\x1b%@b", "ab"),
        ("a\x1b[?1000hb\x1b[?25;1003h", "ab"),
        // Control characters of two bytes.
        ("a\u{9b}6nb", "a6nb"),
        // A sequence that another cuts off, and one without end.
        ("a\x1b[3\x1b[31mb", "a\x1b[31mb"),
        ("a\x1b]0;x\x1b[31mb", "a\x1b[31mb"),
    ] {
        assert_eq!(safe(hostile), left, "{hostile:?}");
    }
    assert_eq!(safe(&format!("a\x1b[{}mb", "1;".repeat(500))), "ab");
}

#[test]
fn answers_pass_where_they_go_to_the_command() {
    for text in ["\x1b[6n", "\x1b[c", "\x1b[>c", "\x1b[?1000h"] {
        assert_eq!(passed(Escapes::Safe, true, text.as_bytes()), text);
    }
    assert_eq!(passed(Escapes::Safe, true, b"\x1b[21t\x1b]52;c;?\x07"), "");
}

#[test]
fn pieces_of_any_size_are_filtered_alike() {
    let text = "é\x1b[31mx\x1b]0;t\x1b\\y\u{9b}\x1b[6n\x1b(0q\x1b[?25l\x1bP1\x1b\\z\u{a0}";
    let bytes = text.as_bytes();
    for escapes in [Escapes::Safe, Escapes::All] {
        let whole = passed(escapes, false, bytes);
        for size in 1..bytes.len() {
            let mut filter = Filter::new(escapes, false);
            let mut modes = Modes::default();
            let mut out = Vec::new();
            for piece in bytes.chunks(size) {
                out.extend(filter.pass(piece, &mut modes));
            }
            assert_eq!(String::from_utf8_lossy(&out), whole, "pieces of {size}");
            assert!(modes.restore().starts_with("\x1b[?25h"));
        }
    }
}

#[test]
fn a_terminal_is_put_in_order() {
    let mut modes = Modes::default();
    let mut filter = Filter::new(Escapes::Safe, false);
    filter.pass(b"plain\r\n", &mut modes);
    assert_eq!(modes.restore(), "");
    filter.pass(b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[?7h", &mut modes);
    assert_eq!(
        modes.restore(),
        "\x1b[?25h\x1b[?1049l\x1b[0m\x1b[4l\x1b(B\x0f"
    );
}

#[test]
fn without_escapes_everything_is_seen() {
    let mut filter = Filter::new(Escapes::None, false);
    let mut modes = Modes::default();
    let mut pass = |text: &str| {
        let out = filter.pass(text.as_bytes(), &mut modes);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(pass("a\x1b[31m\tb\r"), "a^[[31m\tb");
    assert_eq!(
        pass("\n10%\r20%\x7f\u{9b}\u{202e}\n"),
        "\n10%^M20%^?<9b><202e>\n"
    );
    assert_eq!(plain("a\nb\x1b]0;"), "a^Jb^[]0;");
}
