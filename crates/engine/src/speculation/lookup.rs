//! Prompt lookup: what followed the last few tokens when they came before (Saxena 2023, "Prompt
//! Lookup Decoding"; Yang et al. 2023, arXiv:2304.04487).

use std::collections::HashMap;

/// Shortest beginning that must agree. Two tokens agree by chance too often.
const MIN_MATCH: usize = 3;
/// A longer agreement says no more.
const MAX_MATCH: usize = 32;
/// Earlier places that are compared, the latest first.
const MAX_CANDIDATES: usize = 8;
/// Tokens indexed in a call: what a long prompt costs is spread over steps.
const INDEXED_AT_ONCE: usize = 8192;

/// Where each run of [`MIN_MATCH`] tokens of one sequence ended, the latest place first: hash chains
/// as in Lempel-Ziv compressors.
#[derive(Debug, Default)]
pub(crate) struct Lookup {
    /// The last place of a run.
    heads: HashMap<[u32; MIN_MATCH], u32>,
    /// The place before, of the run that ends at each indexed token.
    previous: Vec<Option<u32>>,
}

impl Lookup {
    /// Guesses at most `max` tokens behind `tokens`, which only ever grow. Empty if their end did not
    /// come before.
    pub(crate) fn guess(&mut self, tokens: &[u32], max: usize) -> Vec<u32> {
        // The run at the very end is what is looked for.
        self.index(tokens, tokens.len().saturating_sub(1));
        let Some(&run) = tokens.last_chunk::<MIN_MATCH>() else { return Vec::new() };
        let first = self.heads.get(&run).copied();
        let places = std::iter::successors(first, |place| self.previous[*place as usize]);
        let places = places.take(MAX_CANDIDATES);
        let agreement = |place: &u32| agreement(tokens, *place as usize);
        // Of equal ones the last of the reversed, which is the latest.
        let places: Vec<u32> = places.collect();
        let Some(place) = places.into_iter().rev().max_by_key(agreement) else {
            return Vec::new();
        };
        // A place so near that its continuation is not all there: the text goes in circles.
        let circle = &tokens[place as usize + 1..];
        circle.iter().copied().cycle().take(max).collect()
    }

    /// Indexes the runs that end before `end`.
    fn index(&mut self, tokens: &[u32], end: usize) {
        let begin = self.previous.len();
        for at in begin..end.min(begin + INDEXED_AT_ONCE) {
            let run = tokens[..=at].last_chunk::<MIN_MATCH>();
            self.previous.push(run.and_then(|run| self.heads.insert(*run, at as u32)));
        }
    }
}

/// How many tokens up to and with `place` are those at the end.
fn agreement(tokens: &[u32], place: usize) -> usize {
    let end = tokens.iter().rev();
    let there = tokens[..=place].iter().rev();
    there.zip(end).take(MAX_MATCH).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_guessed() {
        let mut lookup = Lookup::default();
        let tokens = [1, 2, 3, 4, 5, 9, 1, 2, 3];
        assert_eq!(lookup.guess(&tokens, 3), [4, 5, 9]);
        assert!(lookup.guess(&tokens, 0).is_empty());
        let longer = [&tokens[..], &[7]].concat();
        assert!(lookup.guess(&longer, 3).is_empty(), "2 3 7 is new");
        assert!(Lookup::default().guess(&[1, 2], 3).is_empty());
    }

    #[test]
    fn the_longest_agreement_counts_then_the_latest() {
        let tokens = [7, 1, 2, 3, 40, 8, 1, 2, 3, 50, 9, 1, 2, 3, 60, 7, 1, 2, 3];
        assert_eq!(Lookup::default().guess(&tokens, 1), [40]);
        let tokens = [8, 1, 2, 3, 40, 9, 1, 2, 3, 50, 7, 1, 2, 3];
        assert_eq!(Lookup::default().guess(&tokens, 1), [50]);
    }

    #[test]
    fn a_circle_is_followed_round() {
        assert_eq!(Lookup::default().guess(&[5, 6, 5, 6, 5, 6, 5], 5), [6, 5, 6, 5, 6]);
    }

    /// Indexed bit by bit or at once: the same guesses.
    #[test]
    fn growing_changes_nothing() {
        let mut state = 1_u32;
        let mut tokens = Vec::new();
        let mut grown = Lookup::default();
        for _ in 0..600 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            tokens.push(state >> 30);
            assert_eq!(grown.guess(&tokens, 6), Lookup::default().guess(&tokens, 6));
        }
    }
}
