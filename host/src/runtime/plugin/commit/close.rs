//! How topics leave memory.

use super::Commit;
use crate::runtime::channel::Record;
use crate::runtime::plugin::batch::Step;
use crate::runtime::plugin::effects::Fx;
use crate::runtime::plugin::loader::Outcome;

impl Commit<'_> {
    /// The topic leaves memory before it handles anything else.
    pub(super) fn leave(&mut self, step: &Step) {
        self.leaving.push(step.topic);
        self.plan_again();
    }

    pub(super) fn finish_closing(
        &mut self,
        step: &Step,
        outcome: Outcome,
        text: &str,
        fx: Vec<Fx>,
        record: &mut Record,
    ) {
        match outcome {
            Outcome::Ok => self.apply_all(step, fx, record),
            Outcome::Unknown => {}
            _ => self.env.panicked(&self.topic(step).name, step.callback(), text),
        }
        self.leave(step);
    }

    pub(super) fn finish_close(&mut self, step: &Step, record: &mut Record) {
        record.live = false;
        record.forgotten = false;
        record.stored = None;
        record.presence = None;
        record.promises.clear();
        record.awaited.clear();
        for (timer, _) in record.timers.drain() {
            self.env.hub.timers.cancel(timer);
        }
        self.closed.push(step.topic);
        // The inputs behind it belong to the topic's next life, perhaps on newer code.
        self.plan_again();
    }
}
