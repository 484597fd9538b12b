// Shared by the example that writes the generated code and the test that
// compares it, so that the two can't drift apart.

const FILES: [&str; 8] = [
    "signalbox/v1/auth.proto",
    "signalbox/v1/chat.proto",
    "signalbox/v1/event.proto",
    "signalbox/v1/investigation.proto",
    "signalbox/v1/neighbour.proto",
    "signalbox/v1/relay.proto",
    "signalbox/v1/session.proto",
    "signalbox/v1/stats.proto",
];

fn generate(proto: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(FILES, [proto])?;
    let mut config = prost_build::Config::new();
    config.out_dir(out);
    config.bytes(["."]);
    config.compile_fds(descriptors)?;
    Ok(())
}
