//! The generated files, as the example writes them and a test compares them.

mod asyncapi;
mod events;
mod examples;
mod markdown;

use signalbox_protocol::frame::shape;

/// Name below `docs/` and content of every generated file.
pub(crate) fn all() -> Vec<(String, String)> {
    let mut files = vec![
        ("reference/events.md".to_owned(), events::page()),
        ("asyncapi.json".to_owned(), asyncapi::document()),
    ];
    for shape in shape::ALL {
        let name = format!("reference/{}.md", shape.dialect);
        files.push((name, markdown::page(shape)));
    }
    files
}
