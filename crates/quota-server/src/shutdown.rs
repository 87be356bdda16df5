//! The end of a process: asked for once, it stops cleanly; asked for again, at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by SIGTERM or SIGINT. A second SIGINT ends the process without ceremony.
///
/// # Errors
/// Signals cannot be listened to.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
        interrupt.recv().await;
        tracing::warn!("stopping at once");
        std::process::exit(130);
    });
    Ok(token)
}
