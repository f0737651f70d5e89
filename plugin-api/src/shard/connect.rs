//! How a shard decides who may connect.

use super::{Done, Fault, Shard};
use crate::abi::effect;
use crate::channel::Channel;
use crate::connect::{Answer, Connect, ConnectContext, ConnectRequest, Connected, Denial, Origin};
use crate::glue::{Effect, Incoming};
use crate::payload::Payload;
use crate::plugin::Plugin;

impl<C: Channel<P>, G: Connect<P>, P: Plugin> Shard<C, G, P> {
    pub(super) fn connect_answer(&mut self, event: &Incoming<'_>) -> Done {
        let status = event.name.parse().ok();
        self.connect(event, |request, answer, cx| match status {
            // Whoever kept the promise has already refused the client.
            Some(status) => Err(Denial::status(status).body(answer)),
            None => G::connect_answer(request, answer, cx),
        })
    }

    pub(super) fn connect(
        &mut self,
        event: &Incoming<'_>,
        decide: impl FnOnce(&ConnectRequest, Payload<'_>, &mut ConnectContext<P>) -> Connected,
    ) -> Done {
        let request = ConnectRequest::read(event.info).map_err(Fault::Failed)?;
        self.connect.inner.enter(0, &"".into(), 0, None);
        let connected = decide(&request, event.payload, &mut self.connect);
        let cx = &self.connect.inner;
        match connected.map(|connection| connection.0) {
            Ok(Answer::Now { id, assigns }) => {
                let (kind, name) = (effect::CONNECT_ACCEPT, id.as_bytes());
                cx.ask(
                    Effect {
                        kind,
                        name,
                        ..Effect::default()
                    },
                    assigns.lend(event.payload),
                );
            }
            Ok(Answer::Later) => cx.check_promised(event.callback()),
            Err(denial) => {
                let refusal = Effect {
                    kind: effect::CONNECT_REFUSE,
                    number: denial.status.into(),
                    ..Effect::default()
                };
                match denial.body {
                    Some(body) => cx.ask(refusal, body.lend(event.payload)),
                    None => cx.emit(&refusal),
                };
            }
        }
        Ok(())
    }

    pub(super) fn check_origin(&mut self, event: &Incoming<'_>) -> Done {
        let origin = Origin::read(event.info).map_err(Fault::Failed)?;
        self.connect.inner.enter(0, &"".into(), 0, None);
        let answer = if G::check_origin(&origin, self.connect.plugin()) {
            Effect {
                kind: effect::CONNECT_ACCEPT,
                ..Effect::default()
            }
        } else {
            Effect {
                kind: effect::CONNECT_REFUSE,
                number: 403,
                ..Effect::default()
            }
        };
        self.connect.inner.emit(&answer);
        Ok(())
    }
}
