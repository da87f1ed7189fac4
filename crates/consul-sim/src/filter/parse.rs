//! The parser of filters. The order of alternatives in the grammar decides the errors.
//!
//! ```text
//! input    = ( "(" or ")" / or ) EOF
//! or       = and ( " or " or )?
//! and      = not ( " and " and )?
//! not      = "not " not / group
//! group    = "(" or ")" / match
//! match    = selector ( "==" / "!=" / " contains " / " not contains " / … ) value
//!          / selector ( " is empty" / " is not empty" )
//!          / value ( " in " / " not in " ) selector
//! selector = name ( "." name / "[" string "]" )*
//! value    = selector / number / string
//! ```

use super::expression::{Expression, Match, Operator, Relation};
use super::literal::unquote;
use super::scan::{ANY, Class, DIGIT, LEADING_DIGIT, LETTER, Scanner, WORD};

/// The limit of nested parentheses. A real server has none, but takes four times as long for each
/// level, and 17 s for ten.
const MAX_DEPTH: usize = 64;

/// Parses a filter. The error is the text of all errors, one per line.
pub(super) fn parse(text: &str) -> Result<Expression<Match>, String> {
    let mut scanner = Scanner::new(text);
    let found = scanner.input();
    scanner.finish(found)
}

/// The rules of the grammar.
impl Scanner<'_> {
    fn input(&mut self) -> Option<Expression<Match>> {
        let group = self.attempt(|p| {
            p.space();
            p.literal("(")?;
            let inner = p.padded_or()?;
            p.literal(")")?;
            p.space();
            p.end()?;
            Some(inner)
        });
        group.or_else(|| {
            let inner = self.padded_or()?;
            self.end()?;
            Some(inner)
        })
    }

    fn padded_or(&mut self) -> Option<Expression<Match>> {
        self.space();
        let inner = self.or()?;
        self.space();
        Some(inner)
    }

    fn or(&mut self) -> Option<Expression<Match>> {
        Some(match self.chain("or", Self::and)? {
            parts if parts.len() > 1 => Expression::Any(parts),
            mut parts => parts.remove(0),
        })
    }

    fn and(&mut self) -> Option<Expression<Match>> {
        Some(match self.chain("and", Self::not)? {
            parts if parts.len() > 1 => Expression::All(parts),
            mut parts => parts.remove(0),
        })
    }

    /// One or more parts, with `word` between them.
    fn chain(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Option<Expression<Match>>,
    ) -> Option<Vec<Expression<Match>>> {
        let mut parts = vec![part(self)?];
        while let Some(next) = self.attempt(|p| {
            p.words(&[word])?;
            p.space()?;
            part(p)
        }) {
            parts.push(next);
        }
        Some(parts)
    }

    fn not(&mut self) -> Option<Expression<Match>> {
        let mut starts = vec![self.at];
        while self.attempt(|p| p.literal("not").and_then(|()| p.space())).is_some() {
            starts.push(self.at);
        }
        // From the innermost outwards: if it is not a negation, it may be a selector called `not`.
        while let Some(start) = starts.pop() {
            self.at = start;
            if let Some(inner) = self.group() {
                return Some(match starts.len() % 2 {
                    0 => inner,
                    _ => Expression::Not(Box::new(inner)),
                });
            }
        }
        None
    }

    fn group(&mut self) -> Option<Expression<Match>> {
        let start = self.at;
        if self.literal("(").is_some() {
            if self.depth == MAX_DEPTH {
                self.at = start;
                self.error(start, "grouping", "Parentheses nest too deeply");
                return None;
            }
            self.depth += 1;
            let inner = self.padded_or();
            self.depth -= 1;
            let end = self.at;
            match inner {
                Some(inner) if self.literal(")").is_some() => return Some(inner),
                Some(_) => self.error(end, "grouping", "Unmatched parentheses"),
                None => (),
            }
            self.at = start;
        }
        self.one_match()
    }

    fn one_match(&mut self) -> Option<Expression<Match>> {
        let found = self
            .selector_operator_value()
            .or_else(|| self.selector_operator())
            .or_else(|| self.value_operator_selector())?;
        Some(Expression::Match(found))
    }

    fn selector_operator_value(&mut self) -> Option<Match> {
        self.attempt(|p| {
            let selector = p.selector()?;
            let operator = p
                .symbol("==", Relation::Equal, false)
                .or_else(|| p.symbol("!=", Relation::Equal, true))
                .or_else(|| p.word("contains", Relation::In))
                .or_else(|| p.word("matches", Relation::Matches))?;
            Some(Match { selector, operator, value: p.value()? })
        })
    }

    fn selector_operator(&mut self) -> Option<Match> {
        self.attempt(|p| {
            let selector = p.selector()?;
            let negated = match p.words(&["is", "empty"]) {
                Some(()) => false,
                None => p.words(&["is", "not", "empty"]).map(|()| true)?,
            };
            let operator = Operator { relation: Relation::IsEmpty, negated };
            Some(Match { selector, operator, value: String::new() })
        })
    }

    fn value_operator_selector(&mut self) -> Option<Match> {
        self.attempt(|p| {
            let value = p.value()?;
            let operator = p.word("in", Relation::In)?;
            let selector = p.selector();
            if selector.is_none() {
                p.error(p.at, "match", "Invalid selector");
            }
            Some(Match { selector: selector?, operator, value })
        })
    }

    fn symbol(&mut self, symbol: &str, relation: Relation, negated: bool) -> Option<Operator> {
        self.attempt(|p| {
            p.space();
            p.literal(symbol)?;
            p.space();
            Some(Operator { relation, negated })
        })
    }

    /// An operator that is a word, or `not` and that word.
    fn word(&mut self, word: &str, relation: Relation) -> Option<Operator> {
        let mut operator = |words: &[&str], negated| {
            self.attempt(|p| {
                p.words(words)?;
                p.space()?;
                Some(Operator { relation, negated })
            })
        };
        operator(&[word], false).or_else(|| operator(&["not", word], true))
    }

    fn words(&mut self, words: &[&str]) -> Option<()> {
        self.attempt(|p| {
            for word in words {
                p.space()?;
                p.literal(word)?;
            }
            Some(())
        })
    }

    fn selector(&mut self) -> Option<Vec<String>> {
        let mut selector = vec![self.name()?];
        while let Some(part) =
            self.attempt(|p| p.literal(".").and_then(|()| p.name())).or_else(|| self.index())
        {
            selector.push(part);
        }
        Some(selector)
    }

    fn name(&mut self) -> Option<String> {
        self.slice(|p| {
            p.class(LETTER)?;
            while p.class(WORD).is_some() {}
            Some(())
        })
    }

    fn index(&mut self) -> Option<String> {
        self.attempt(|p| {
            p.literal("[")?;
            p.space();
            let Some(name) = p.string() else {
                p.error(p.at, "index", "Invalid index");
                return None;
            };
            p.space();
            let end = p.literal("]");
            if end.is_none() {
                p.error(p.at, "index", "Unclosed index expression");
            }
            end.map(|()| name)
        })
    }

    /// A bare word has the syntax of a selector.
    fn value(&mut self) -> Option<String> {
        let bare = self.selector().map(|selector| selector.join("."));
        bare.or_else(|| self.number()).or_else(|| self.string())
    }

    fn number(&mut self) -> Option<String> {
        self.slice(|p| {
            p.literal("-");
            p.literal("0").or_else(|| p.digits(LEADING_DIGIT))?;
            p.attempt(|p| p.literal(".").and_then(|()| p.digits(DIGIT)));
            let is_whole = p.is_ahead(|p| p.space().or_else(|| p.end()).or_else(|| p.literal(")")));
            if !is_whole {
                p.error(p.at, "number", "Invalid number literal");
            }
            is_whole.then_some(())
        })
    }

    fn digits(&mut self, first: Class) -> Option<()> {
        self.class(first)?;
        while self.class(DIGIT).is_some() {}
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let start = self.at;
        let quoted = self.slice(|p| {
            let quote = ["`", "\""].into_iter().find(|quote| p.literal(quote).is_some())?;
            while p.is_not_ahead(|p| p.literal(quote)) && p.class(ANY).is_some() {}
            let end = p.literal(quote);
            if end.is_none() {
                p.error(p.at, "string", "Unterminated string literal");
            }
            end
        })?;
        let text = unquote(&quoted);
        if text.is_none() {
            // The rule matched all the same, so parsing goes on.
            self.error(start, "string", "invalid syntax");
        }
        Some(text.unwrap_or_default())
    }
}
