//! The `domicile` binary.

fn main() -> std::process::ExitCode {
    domicile_server::run()
}
