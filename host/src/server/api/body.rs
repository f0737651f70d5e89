//! Reads the body of a request, within limits of size, time, and what is held for all clients.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use serde::Deserialize;

use super::Api;
use super::answer::{Reason, Refusal};
use super::listener::Stage;
use crate::config::Config;
use crate::runtime::clock;
use crate::server::held::Share;

/// How much of a body nobody needs is read, so that the connection can stay.
const SMALL: usize = 64 * 1024;
/// How long that may take.
const SHORT: Duration = Duration::from_millis(500);

/// The whole body, and what it counts as while somebody has it.
///
/// # Errors
///
/// If it is longer or takes longer than the configuration allows, ends too early, or takes too much of what is held for all clients.
pub(super) async fn read(api: &Api, config: &Config, body: &mut Incoming) -> Result<(Bytes, Option<Share>), Refusal> {
    let most = config.api.max_body_bytes;
    let too_large = || Refusal::new(Reason::TooLarge, format!("the body is longer than {most} bytes"));
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let share = api.endpoint.state.bodies.share();
    let read = pieces(body, most, share, config.limits.max_inbound_total_bytes);
    let read = tokio::select! {
        // The usual body is there already: it waits for nothing.
        biased;
        read = clock::timeout(config.api.body_timeout, read) => read,
        () = api.reaches(Stage::Finishes) => return Err(Refusal::new(Reason::Stopping, "the server stops")),
    };
    match read {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(Some(Reason::TooLarge))) => Err(too_large()),
        Ok(Err(Some(_))) => Err(Refusal::new(
            Reason::Overloaded,
            "too many bytes are held for all clients",
        )),
        Ok(Err(None)) => Err(Refusal::invalid("the body ends too early")),
        Err(_) => Err(Refusal::new(Reason::Timeout, "the body did not come in time")),
    }
}

/// Puts the pieces of a body together. The usual body is one piece.
async fn pieces(
    body: &mut Incoming,
    most: usize,
    mut share: Share,
    total: usize,
) -> Result<(Bytes, Option<Share>), Option<Reason>> {
    let mut whole = BytesMut::new();
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| None)?.into_data() else {
            continue;
        };
        let length = first.len() + whole.len() + data.len();
        if length > most {
            return Err(Some(Reason::TooLarge));
        }
        if first.is_empty() && whole.is_empty() {
            first = data;
        } else {
            whole.extend_from_slice(&std::mem::take(&mut first));
            whole.extend_from_slice(&data);
        }
        share
            .set(length.max(whole.capacity()), total)
            .map_err(|_| Some(Reason::Overloaded))?;
    }
    let bytes = if whole.is_empty() { first } else { whole.freeze() };
    Ok((bytes, Some(share)))
}

/// Reads what is left of the body of a refused request. Whether that was little, and came soon: then the connection can stay.
pub(super) async fn drop_rest(body: &mut Incoming) -> bool {
    if body.size_hint().lower() > SMALL as u64 {
        return false;
    }
    let all = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.ok()?.data_ref().map_or(0, Bytes::len);
            if read > SMALL {
                return None;
            }
        }
        Some(())
    };
    matches!(clock::timeout(SHORT, all).await, Ok(Some(())))
}

/// Reads an object. serde would also take an array with the values of the fields in their order.
///
/// # Errors
///
/// If it is something else, or has other fields.
pub(super) fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Refusal> {
    if !json.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::invalid("a JSON object is needed: `{`"));
    }
    serde_json::from_slice(json).map_err(|error| Refusal::invalid(error.to_string()))
}
