//! The binary.

/// A request makes many small allocations, and one thread often frees what another made: the C library's allocator is slow
/// at that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    quota_server::cli::run()
}
