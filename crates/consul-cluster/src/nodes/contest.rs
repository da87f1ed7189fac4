//! Whether another start with a node's name lives, whose record is in the node's key: it is asked there, and a process that
//! lives takes each request out of its own key.
//!
//! Consul's lists do not tell that: a restored snapshot has instances that pass and belong to nobody, and modify
//! indexes can be compared only within one history of Consul. Its answer names who has asked, since each other write of
//! the key takes the request out of it. While the asked process does not answer, the key stays as it is.

use super::node::Record;
use super::registered;
use super::request::Request;
use crate::options::Options;
use crate::pauses::CERTAIN_AFTER;
use crate::pauses::WAIT;
use consul_api::error::{Error, Kind};
use consul_client::Client;
use consul_process::clock::Instant;
use std::time::Duration;

/// How many answers show that it lives, the last one to a question that is [`CERTAIN_AFTER`] younger than the first: one may
/// be an operator's write, or it ends meanwhile.
const ENOUGH: u32 = 2;

/// The knowledge about the other start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The question has just been written.
    Asked,
    /// The question is in its key.
    Unanswered,
    /// It has answered, and is asked again later.
    Answered,
    /// It lives.
    Lives,
    /// It has not answered in time, or what answers is not a node; the key has this modify index.
    Silent(u64),
}

/// The questions to one other start.
#[derive(Debug, Default)]
pub(super) struct Contest {
    /// How long it has to answer.
    patience: Duration,
    /// The start that is asked.
    other: String,
    /// When it was asked for the first time.
    begun: Option<Instant>,
    /// The question in its key: who asks, a modify index that every answer to it is above, and since when it is there.
    question: Option<(String, u64, Instant)>,
    answers: u32,
    /// Whether one of them does not show who has asked: it is that of an earlier release, or another program's write.
    is_unsigned: bool,
}

impl Contest {
    /// Whether this start has been asked.
    pub(super) fn has_asked(&self, other: &str) -> bool {
        self.other == other && self.begun.is_some()
    }

    /// That of a node that starts: the other one has as long as a node without beats counts as live.
    pub(super) fn of_start(options: &Options) -> Self {
        let patience = options.profile.check_ttl + options.profile.beat * 2;
        Contest { patience, ..Contest::default() }
    }

    /// That of a node that takes part: the other one may have to wait until it looks at its key by itself.
    pub(super) fn of_member(options: &Options) -> Self {
        let patience = options.profile.check_ttl + options.heartbeat_interval.min(WAIT);
        Contest { patience, ..Contest::default() }
    }

    /// Goes on with the record of another start that is in the node's key at this index; asks as `own`.
    ///
    /// # Errors
    /// Errors of the question.
    pub(super) async fn look(
        &mut self,
        client: &Client,
        options: &Options,
        own: &str,
        (record, index): (&Record, u64),
    ) -> Result<Found, Error> {
        let now = client.clock().now();
        if self.other != record.incarnation {
            let (other, patience) = (record.incarnation.clone(), self.patience);
            *self = Contest { other, patience, ..Contest::default() };
        }
        let begun = *self.begun.get_or_insert(now);
        let asks = record.request.as_ref().and_then(|request| request.answer.clone());
        if let Some((asker, asked, since)) = &self.question {
            let is_newer = index > *asked;
            if is_newer && asks.as_ref() != Some(asker) {
                self.answers += 1;
                self.is_unsigned |= record.answered.as_ref() != Some(asker);
                if self.answers >= ENOUGH && *since - begun >= CERTAIN_AFTER {
                    return match self.is_unsigned {
                        false => Ok(Found::Lives),
                        true => self.by_instance(client, options, index).await,
                    };
                }
                self.question = None;
            }
        }
        let Some(asker) = asks else {
            if self.answers > 0 && now - begun < CERTAIN_AFTER {
                return Ok(Found::Answered);
            }
            let mut asked = Record { answered: None, ..record.clone() };
            asked.request = Some(Request {
                answer: Some(own.to_owned()),
                ..record.request.clone().unwrap_or_default()
            });
            return match registered::write(client, options, &asked, index).await {
                Ok(()) => {
                    self.question = Some((own.to_owned(), index, now));
                    Ok(Found::Asked)
                }
                // It was changed in between, or the answer was that of a cache.
                Err(error) if error.kind() == Kind::Conflict => Ok(Found::Answered),
                // A node that may not ask believes the list.
                Err(error) if error.kind() == Kind::PermissionDenied => {
                    match now - begun >= self.patience {
                        true => self.by_instance(client, options, index).await,
                        false => Ok(Found::Answered),
                    }
                }
                Err(error) => Err(error),
            };
        };
        let since = match &self.question {
            Some((known, _, since)) if *known == asker => *since,
            _ => now,
        };
        self.question = Some((asker, index, since));
        match now - since >= self.patience {
            true => Ok(Found::Silent(index)),
            false => Ok(Found::Unanswered),
        }
    }

    /// It lives if Consul lists an instance of it that passes; otherwise its key is another program's doing.
    async fn by_instance(
        &self,
        client: &Client,
        options: &Options,
        index: u64,
    ) -> Result<Found, Error> {
        let is_listed = registered::is_live_start(client, options, &self.other).await?;
        Ok(if is_listed { Found::Lives } else { Found::Silent(index) })
    }

    /// The other start has as long again to answer, since Consul has not answered meanwhile.
    pub(super) fn interrupted(&mut self, now: Instant) {
        if let Some((_, _, since)) = &mut self.question {
            *since = now;
        }
    }
}
