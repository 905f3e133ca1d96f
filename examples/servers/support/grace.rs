//! The time that connections have to end.

use std::time::Duration;

use crate::support::stop;

/// Serves until the server has stopped, or until connections have had ten seconds to end since [`stop`].
pub(crate) async fn until_stopped<T, E>(server: impl Future<Output = Result<T, E>>) -> Result<(), E> {
    tokio::select! {
        served = server => served.map(drop),
        () = async { stop().await; tokio::time::sleep(Duration::from_secs(10)).await } => {
            eprintln!("some connections did not end in time");
            Ok(())
        }
    }
}
