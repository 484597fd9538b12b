// Shared by the example that writes the generated code and the test that
// compares it, so that the two can't drift apart.

const FILES: [&str; 2] = [
    "signalbox/api/v1/tokens.proto",
    "signalbox/api/v1/events.proto",
];

fn generate(proto: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, [proto])?;
    let encoded = prost::Message::encode_to_vec(&descriptors);
    std::fs::write(out.join("signalbox.api.v1.bin"), encoded)?;
    tonic_prost_build::configure()
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}
