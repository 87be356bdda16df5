//! The binary.

fn main() -> std::process::ExitCode {
    quota_server::cli::run()
}
