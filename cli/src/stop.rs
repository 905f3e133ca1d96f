//! When a command is told to stop.

use tokio::signal::unix::{SignalKind, signal};

/// Waits for Ctrl-C, or for SIGTERM. From the call on, and not only when it is waited for, neither ends the process
/// by itself.
pub(crate) fn stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
