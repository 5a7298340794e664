//! A grammar's matcher as the engine's constraint: the two rooms do not know each other.

use engine::Constraint;
use text::Matcher;

struct Steer(Matcher);

/// A constraint that starts where `matcher` stands.
pub(super) fn steer(matcher: &Matcher) -> Box<dyn Constraint> {
    Box::new(Steer(matcher.fork()))
}

impl Constraint for Steer {
    fn fill_mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        self.0.fill_mask(mask).map_err(|error| error.to_string())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.accept(id).map_err(|error| error.to_string())
    }

    fn rollback(&mut self, n: usize) -> Result<(), String> {
        self.0.rollback(n).map_err(|error| error.to_string())
    }

    fn forced(&mut self, max: usize) -> Vec<u32> {
        self.0.forced(max)
    }
}
