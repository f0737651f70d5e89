//! What this node asks others: each question is a task, until its answer is whole, its time is over, or nobody waits for it any more.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::part::{Part, Whole};
use super::{Asker, Asks, subject};
use crate::cluster::answers::NoAnswer;
use crate::runtime::clock;

/// The place of a question among those that wait, until it is dropped.
struct Place {
    asks: Arc<Asks>,
    number: u64,
    parts: mpsc::UnboundedReceiver<Part>,
}

impl Asks {
    /// Asks the run of a node with this number, and waits for so long. If the caller does not wait any more, the other node learns of
    /// it.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub(in crate::cluster) async fn ask(
        self: &Arc<Self>,
        node: u64,
        question: Bytes,
        patience: Duration,
    ) -> Result<Bytes, NoAnswer> {
        let counts = &self.shared.counts;
        let (reply, answer) = oneshot::channel();
        let Some(place) = self.place() else {
            counts.questions_refused.inc();
            return Err(NoAnswer::TooMany);
        };
        counts.questions_out.inc();
        self.handle.spawn(place.carry(node, question, patience, reply));
        // The task is gone without a word only if the thread is.
        let answer = answer.await.unwrap_or(Err(NoAnswer::Leaving));
        match answer {
            Ok(_) => counts.answers_in.inc(),
            Err(NoAnswer::Late) => counts.questions_late.inc(),
            Err(NoAnswer::NoNode) => counts.questions_lost.inc(),
            Err(_) => counts.questions_refused.inc(),
        };
        answer
    }

    /// A place for one more question. `None`: as many wait as may.
    fn place(self: &Arc<Self>) -> Option<Place> {
        let mut waiting = self.waiting();
        if waiting.len() >= self.config.max_questions {
            return None;
        }
        let (say, parts) = mpsc::unbounded_channel();
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        waiting.insert(number, say);
        Some(Place {
            asks: Arc::clone(self),
            number,
            parts,
        })
    }

    /// Takes what this node is told. What no question can have brought is counted.
    pub(super) fn take_told(&self, message: &Message) {
        let number = message
            .subject
            .rsplit('.')
            .next()
            .and_then(|number| number.parse().ok());
        let asked = number.filter(|number| (1..=self.last.load(Ordering::Relaxed)).contains(number));
        let part = match message.status {
            // The broker itself says so.
            Some(StatusCode::NO_RESPONDERS) => Some(Part::NoAnswer(NoAnswer::NoNode)),
            _ => Part::read(&message.payload),
        };
        let (Some(number), Some(part)) = (asked, part) else {
            return self.foreign();
        };
        // Otherwise its time was over, or nobody waits any more.
        if let Some(say) = self.waiting().get(&number) {
            let _ = say.send(part);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.asks.waiting().remove(&self.number);
    }
}

impl Place {
    async fn carry(
        mut self,
        node: u64,
        question: Bytes,
        patience: Duration,
        mut reply: oneshot::Sender<Result<Bytes, NoAnswer>>,
    ) {
        let asks = Arc::clone(&self.asks);
        let to: Subject = subject(&asks.config.name, "ask", node).into();
        let told = asks.told(Asker {
            run: asks.me.run(),
            number: self.number,
        });
        let answer = clock::timeout(patience, self.answer(&to, &told, question));
        let outcome = tokio::select! {
            answer = answer => Some(answer.unwrap_or(Err(NoAnswer::Late))),
            () = reply.closed() => None,
        };
        if matches!(
            outcome,
            None | Some(Err(NoAnswer::Late | NoAnswer::TooLarge | NoAnswer::TooMany))
        ) {
            // It may still be at work there.
            let _ = asks.publish(&to, Some(&told), &Part::NeverMind).await;
        }
        drop(self);
        if let Some(outcome) = outcome {
            let _ = reply.send(outcome);
        }
    }

    /// Sends the question, and puts the answer together.
    async fn answer(&mut self, to: &Subject, told: &Subject, question: Bytes) -> Result<Bytes, NoAnswer> {
        let held = self.asks.hold(question.len()).ok_or(NoAnswer::TooMany)?;
        self.asks.send(to, Some(told), &question).await?;
        drop((question, held));
        let mut begun = None;
        loop {
            // The way here is kept for as long as this place is.
            let part = self.parts.recv().await.ok_or(NoAnswer::Leaving)?;
            let (total, offset, bytes) = match part {
                Part::Bytes { total, offset, bytes } => (total, offset, bytes),
                Part::NoAnswer(why) => return Err(why),
                Part::NeverMind => continue,
            };
            if begun.is_none() {
                if total as usize > self.asks.config.max_item_bytes {
                    return Err(NoAnswer::TooLarge);
                }
                let held = self.asks.hold(total as usize).ok_or(NoAnswer::TooMany)?;
                begun = Some((Whole::new(total), held));
            }
            let Some((whole, _held)) = &mut begun else { continue };
            // A part that was lost on the way is as if there was no answer.
            if let Some(answer) = whole.add(total, offset, &bytes).map_err(|_| NoAnswer::Late)? {
                return Ok(answer);
            }
        }
    }
}
