//! The syntax tree of a filter: matches under `and`, `or` and `not`.

/// A boolean expression over matches of type `M`.
#[derive(Debug, PartialEq)]
pub(super) enum Expression<M> {
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
    Match(M),
}

impl<M> Expression<M> {
    /// The expression with each match converted, or the error of the leftmost match that has one.
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

    /// The value of the expression, given the values of its matches.
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
    /// Empty for an operator without a value.
    pub value: String,
}

/// The operator of a match.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Operator {
    pub relation: Relation,
    pub negated: bool,
}

/// A relation between the selected value and the one in the filter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Relation {
    Equal,
    /// `in` and `contains`, whose sides are swapped.
    In,
    IsEmpty,
    Matches,
}

impl Operator {
    /// The operator's name in errors.
    pub fn name(self) -> &'static str {
        match (self.relation, self.negated) {
            (Relation::Equal, false) => "Equal",
            (Relation::Equal, true) => "Not Equal",
            (Relation::In, false) => "In",
            (Relation::In, true) => "Not In",
            (Relation::IsEmpty, false) => "Is Empty",
            (Relation::IsEmpty, true) => "Is Not Empty",
            (Relation::Matches, false) => "Matches",
            (Relation::Matches, true) => "Not Matches",
        }
    }
}
