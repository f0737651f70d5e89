//! Remembers answers by `Idempotency-Key`, so that a request which comes twice is carried out once.
//!
//! A key belongs to an API key. What is remembered is bounded in number, bytes and time, and gone after a restart. A request that
//! did nothing is not remembered: the same key may be used for the next try.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use sha2::{Digest as _, Sha256};

use super::answer::{Answer, Reason, Refusal};
use super::{Asked, Work};
use crate::config;
use crate::server::held::Share;

/// The longest `Idempotency-Key`.
pub(super) const MOST_BYTES: usize = 255;
/// What an entry takes besides its texts.
const ENTRY_BYTES: usize = 3 * size_of::<(Id, Entry)>();

/// All answers that are remembered.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Arc<Id>, Entry>,
    /// By the name of the API key.
    owners: HashMap<String, Answered>,
}

/// What is remembered for one API key.
#[derive(Debug, Default)]
struct Answered {
    /// The oldest first.
    ids: VecDeque<(Arc<Id>, Instant)>,
    bytes: usize,
}

/// Whose request it is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Id {
    api_key: String,
    key: String,
}

#[derive(Debug)]
struct Entry {
    /// Of the whole request.
    fingerprint: [u8; 32],
    /// `None` while it is at work.
    answer: Option<Answer>,
}

/// What is known of a request.
#[derive(Debug)]
enum Found {
    /// It is new, and at work from now on.
    New(Ticket),
    /// It was answered.
    Answered(Answer),
    /// It is at work.
    AtWork,
    /// Another request had its key.
    Other,
}

/// Promises an answer. If it is dropped without one, the request is forgotten.
#[derive(Debug)]
struct Ticket {
    asked: Asked,
    id: Arc<Id>,
}

/// Carries a request out, or answers as before. It goes on if the client hangs up: whoever asks again gets its answer.
pub(super) async fn once(asked: Asked, key: String, held: (Work, Option<Share>)) -> Result<Answer, Refusal> {
    if asked.routing.config.api.max_idempotency_keys == 0 {
        return Err(Refusal::invalid("this server remembers no `Idempotency-Key`"));
    }
    let remembered = Arc::clone(&asked.api.remembered);
    match remembered.find(asked, key) {
        Found::Answered(answer) => Ok(Answer {
            replayed: true,
            ..answer
        }),
        Found::AtWork => Err(Refusal::new(
            Reason::InProgress,
            "a request with this `Idempotency-Key` is at work: ask again",
        )),
        Found::Other => Err(Refusal::new(
            Reason::KeyReused,
            "this `Idempotency-Key` belongs to another request",
        )),
        Found::New(ticket) => {
            let work = tokio::spawn(async move {
                let answer = ticket.asked.clone().carry_out().await;
                ticket.answered(&answer);
                drop(held);
                answer
            });
            let stopping = |_| Refusal::new(Reason::Stopping, "the server stops");
            work.await.map_err(stopping)
        }
    }
}

/// What tells requests with the same key apart.
fn fingerprint(asked: &Asked) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(asked.verb.name);
    hash.update([0]);
    hash.update(&asked.body);
    hash.finalize().into()
}

impl Remembered {
    fn find(&self, asked: Asked, key: String) -> Found {
        let fingerprint = fingerprint(&asked);
        let id = Arc::new(Id {
            api_key: asked.key.name.clone(),
            key,
        });
        let config = Arc::clone(&asked.routing.config);
        let mut table = self.lock();
        table.expire(&config.api, Instant::now());
        match table.entries.get(&id) {
            Some(known) if known.fingerprint != fingerprint => Found::Other,
            Some(Entry { answer: None, .. }) => Found::AtWork,
            Some(Entry {
                answer: Some(answer), ..
            }) => Found::Answered(answer.clone()),
            None => {
                let entry = Entry {
                    fingerprint,
                    answer: None,
                };
                table.entries.insert(Arc::clone(&id), entry);
                Found::New(Ticket { asked, id })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().expect("no holder of the table panics")
    }
}

impl Ticket {
    /// Remembers the answer, unless nothing was done.
    fn answered(self, answer: &Answer) {
        let (config, metrics) = (&self.asked.routing.config.api, &self.asked.api.metrics);
        if answer.did_nothing {
            return;
        }
        let mut table = self.asked.api.remembered.lock();
        let Some(entry) = table.entries.get_mut(&self.id) else {
            return;
        };
        entry.answer = Some(answer.clone());
        table.remember(&self.id, answer.body.len(), Instant::now());
        let forgotten = table.make_room(config);
        metrics.forgotten.inc_by(forgotten as u64);
        let (count, bytes) = table.sums();
        metrics.remembered.store(count, Ordering::Relaxed);
        metrics.remembered_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut table = self.asked.api.remembered.lock();
        if table.entries.get(&self.id).is_some_and(|entry| entry.answer.is_none()) {
            table.entries.remove(&self.id);
        }
    }
}

impl Table {
    fn remember(&mut self, id: &Arc<Id>, body: usize, now: Instant) {
        let owner = self.owners.entry(id.api_key.clone()).or_default();
        owner.bytes += id.bytes() + body;
        owner.ids.push_back((Arc::clone(id), now));
    }

    /// How many answers are remembered, and their bytes.
    fn sums(&self) -> (usize, usize) {
        let owners = self.owners.values();
        owners.fold((0, 0), |(count, bytes), owner| {
            (count + owner.ids.len(), bytes + owner.bytes)
        })
    }

    /// Forgets what has been remembered for long enough.
    fn expire(&mut self, config: &config::Api, now: Instant) {
        for owner in self.owners.values_mut() {
            while let Some((_, at)) = owner.ids.front()
                && now.saturating_duration_since(*at) >= config.idempotency
            {
                owner.forget_oldest(&mut self.entries);
            }
        }
    }

    /// Forgets answers until the rest is within its limits: the oldest of the API key that has most, so that one backend does not
    /// make the server forget those of another. Returns how many that were.
    fn make_room(&mut self, config: &config::Api) -> usize {
        let mut forgotten = 0;
        loop {
            let (count, bytes) = self.sums();
            let owners = self.owners.values_mut();
            let most = match () {
                () if count > config.max_idempotency_keys => owners.max_by_key(|owner| owner.ids.len()),
                () if bytes > config.max_idempotency_bytes => owners.max_by_key(|owner| owner.bytes),
                () => None,
            };
            let Some(most) = most else { return forgotten };
            most.forget_oldest(&mut self.entries);
            forgotten += 1;
        }
    }
}

impl Answered {
    fn forget_oldest(&mut self, entries: &mut HashMap<Arc<Id>, Entry>) {
        let Some((id, _)) = self.ids.pop_front() else { return };
        if let Some(answer) = entries.remove(&id).and_then(|entry| entry.answer) {
            self.bytes -= id.bytes() + answer.body.len();
        }
    }
}

impl Id {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.api_key.len() + self.key.len()
    }
}
