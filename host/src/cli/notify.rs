//! Tells systemd how the server is (`sd_notify`), for a service with `Type=notify`. Started otherwise, it tells nobody.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::server::pulse::Pulse;

/// The server accepts clients at these places.
pub(super) fn ready(urls: &[String]) {
    let status = format!("listening on {}", urls.join(" and "));
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// The server reads its configuration and its libraries again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell systemd of a reload"),
    }
}

/// It has read them.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The server stops.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("closing connections")]);
}

/// Gives systemd a sign of life in half of the time after which it would restart the server (`WatchdogSec=`), as long as the I/O
/// threads give one. Returns at once if systemd wants none.
pub(super) async fn watch(pulse: Pulse) {
    let Some(time) = sd_notify::watchdog_enabled() else {
        return;
    };
    let half = (time / 2).max(Duration::from_millis(1));
    loop {
        if pulse.beats(half).await {
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep(half).await;
        } else {
            tracing::error!("an I/O thread does not answer: systemd gets no sign of life, and restarts the server");
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd how the server is");
    }
}
