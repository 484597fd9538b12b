//! Writes `docs/reference/` and `docs/asyncapi.json` anew from the shapes of
//! the dialects, the event catalogue and the fixtures:
//! `cargo run -p signalbox-protocol --example reference`.

use std::path::Path;

#[path = "reference/files.rs"]
mod files;

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, text) in files::all() {
        let file = docs.join(name);
        std::fs::create_dir_all(file.parent().unwrap_or(&docs))?;
        std::fs::write(file, text)?;
    }
    Ok(())
}
