//! The shape of a filter: matches under `and`, `or` and `not`.

/// A boolean expression over matches of type `M`.
#[derive(Debug, PartialEq)]
pub(super) enum Expression<M> {
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
    Match(M),
}

impl<M> Expression<M> {
    /// The same expression over other matches, or the error of the leftmost that has one.
    pub fn try_map<N, E>(
        self,
        change: &mut impl FnMut(M) -> Result<N, E>,
    ) -> Result<Expression<N>, E> {
        let mut change_all = |parts: Vec<Self>| -> Result<Vec<_>, E> {
            parts.into_iter().map(|part| part.try_map(change)).collect()
        };
        Ok(match self {
            Self::Any(parts) => Expression::Any(change_all(parts)?),
            Self::All(parts) => Expression::All(change_all(parts)?),
            Self::Not(part) => Expression::Not(Box::new(part.try_map(change)?)),
            Self::Match(found) => Expression::Match(change(found)?),
        })
    }

    /// What the expression says, given what its matches do.
    pub fn holds(&self, test: &impl Fn(&M) -> bool) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.holds(test)),
            Self::All(parts) => parts.iter().all(|part| part.holds(test)),
            Self::Not(part) => !part.holds(test),
            Self::Match(found) => test(found),
        }
    }
}

/// One comparison as it is written.
#[derive(Debug, PartialEq)]
pub(super) struct Match {
    pub selector: Vec<String>,
    pub operator: Operator,
    /// Empty for an operator that takes none.
    pub value: String,
}

/// What a match asks, and whether it wants a no.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operator {
    pub question: Question,
    pub negated: bool,
}

/// What can be asked of a selected value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Question {
    Equal,
    /// `in` and `contains`, which are the same but for their sides.
    In,
    IsEmpty,
    Matches,
}

impl Operator {
    /// The operator as errors call it.
    pub fn name(self) -> &'static str {
        match (self.question, self.negated) {
            (Question::Equal, false) => "Equal",
            (Question::Equal, true) => "Not Equal",
            (Question::In, false) => "In",
            (Question::In, true) => "Not In",
            (Question::IsEmpty, false) => "Is Empty",
            (Question::IsEmpty, true) => "Is Not Empty",
            (Question::Matches, false) => "Matches",
            (Question::Matches, true) => "Not Matches",
        }
    }
}
