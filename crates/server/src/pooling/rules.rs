//! What a pooling model makes of a prompt, and which model answers at which routes.

use std::sync::Arc;

use crate::error::ApiError;
use crate::registry::Registry;
use crate::served_model::ServedModel;

/// What becomes of the vectors that the engine gives for a model's prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolingRules {
    /// Elements of a vector.
    pub size: usize,
    /// Whether vectors are scaled to length 1 if the request does not say.
    pub normalizes: bool,
    /// Which shorter vectors the model was trained for.
    pub matryoshka: Matryoshka,
    /// Whether texts are put in lower case before they are tokenised.
    pub lowercases: bool,
    /// Whether what is too long is cut if the request does not say; else it is refused.
    pub truncates: bool,
    /// Of a model whose vectors are the numbers of its head.
    pub head: Option<HeadRules>,
}

/// What becomes of the numbers that a head gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRules {
    /// How many there are.
    pub num_labels: usize,
    /// Whether they become 0 to 1 if the request does not say.
    pub squashes: bool,
}

/// To which lengths the vectors of a model may be cut (Matryoshka representations,
/// arXiv:2205.13147).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matryoshka {
    /// To none: what is cut off of an ordinary vector is lost.
    No,
    /// To any.
    Any,
    /// To these.
    Of(Vec<usize>),
}

impl PoolingRules {
    /// The length that `dimensions` asks for.
    pub(crate) fn dimensions(&self, asked: Option<u64>) -> Result<usize, ApiError> {
        let Some(asked) = asked else { return Ok(self.size) };
        let size = self.size;
        let is_allowed = |dimensions: &usize| match &self.matryoshka {
            _ if *dimensions == size => true,
            Matryoshka::No => false,
            Matryoshka::Any => (1..size).contains(dimensions),
            Matryoshka::Of(allowed) => allowed.contains(dimensions),
        };
        if let Some(dimensions) = usize::try_from(asked).ok().filter(is_allowed) {
            return Ok(dimensions);
        }
        let allowed = match &self.matryoshka {
            Matryoshka::No => {
                format!(
                    "this model's vectors have {size} and are not made to be cut: leave it out (the \
                     operator may say otherwise with --matryoshka-dimensions)"
                )
            }
            Matryoshka::Any => format!("it may be 1 to {size}"),
            Matryoshka::Of(allowed) => {
                let allowed: Vec<_> = allowed.iter().map(usize::to_string).collect();
                format!("it may be {} or {size}", allowed.join(", "))
            }
        };
        Err(ApiError::invalid("dimensions", format!("'dimensions' is {asked}; {allowed}.")))
    }
}

/// The first `dimensions` elements, scaled to length 1 if that is wanted.
pub(crate) fn shaped(mut vector: Vec<f32>, dimensions: usize, normalizes: bool) -> Vec<f32> {
    vector.truncate(dimensions);
    if normalizes {
        let square = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        // As torch: nothing points nowhere.
        let length = square.sqrt().max(1e-12);
        for x in &mut vector {
            *x = (f64::from(*x) / length) as f32;
        }
    }
    vector
}

impl Registry {
    /// The model that a request asks for, as [`Self::find`], or 400 if it generates no text.
    pub(crate) fn generating(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.find(name)?;
        match model.pooling() {
            None => Ok(model),
            Some(PoolingRules { head: Some(_), .. }) => Err(model.wrong_task(
                "scores pairs of texts and generates none: ask it at /v1/rerank or /v1/score",
            )),
            Some(PoolingRules { head: None, .. }) => Err(model.wrong_task(
                "makes embeddings and generates no text: ask it at /v1/embeddings, or, if it is no encoder, \
                 start the server with --runner generate",
            )),
        }
    }

    /// The model that a request asks for, as [`Self::find`], or 400 if it makes no embeddings.
    pub(crate) fn embedding(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.find(name)?;
        match model.pooling() {
            Some(PoolingRules { head: None, .. }) => Ok(model),
            Some(PoolingRules { head: Some(_), .. }) => Err(model.wrong_task(
                "scores pairs of texts and makes no embeddings: ask it at /v1/rerank or /v1/score",
            )),
            None => Err(model.wrong_task(
                "generates text and makes no embeddings: serve an embedding model, or start the \
                 server with --runner pooling",
            )),
        }
    }

    /// The model that a request asks for, as [`Self::find`], or 400 if it cannot compare texts.
    pub(crate) fn scoring(&self, name: Option<&str>) -> Result<Arc<ServedModel>, ApiError> {
        let model = self.find(name)?;
        let wrong = match model.pooling() {
            Some(PoolingRules { head: None, .. }) => return Ok(model),
            Some(PoolingRules { head: Some(head), .. }) if head.num_labels == 1 => {
                return Ok(model);
            }
            Some(_) => "tells kinds of texts apart and gives no single score",
            None => {
                "generates text and compares none: serve a cross-encoder or an embedding model, or \
                 start the server with --runner pooling"
            }
        };
        Err(model.wrong_task(wrong))
    }
}

impl ServedModel {
    /// What becomes of the vectors of a model that was asked for as one that makes some.
    pub(crate) fn pooling_rules(&self) -> &PoolingRules {
        self.pooling().expect("a model that makes vectors")
    }

    fn wrong_task(&self, what: &str) -> ApiError {
        let message = format!("The model '{}' {what}.", self.names()[0]);
        ApiError { code: Some("model_task_mismatch"), ..ApiError::invalid("model", message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(matryoshka: Matryoshka) -> PoolingRules {
        PoolingRules {
            size: 8,
            normalizes: true,
            matryoshka,
            lowercases: false,
            truncates: false,
            head: None,
        }
    }

    #[test]
    fn only_vectors_that_were_made_for_it_are_cut() {
        let given = |matryoshka, asked| rules(matryoshka).dimensions(asked).ok();
        for matryoshka in [Matryoshka::No, Matryoshka::Any, Matryoshka::Of(vec![2])] {
            assert_eq!(given(matryoshka.clone(), None), Some(8));
            assert_eq!(given(matryoshka.clone(), Some(8)), Some(8));
            for wrong in [0, 9, u64::MAX] {
                assert_eq!(given(matryoshka.clone(), Some(wrong)), None, "{matryoshka:?} {wrong}");
            }
        }
        let four = [Matryoshka::No, Matryoshka::Any, Matryoshka::Of(vec![2, 4])];
        assert_eq!(four.map(|matryoshka| given(matryoshka, Some(4))), [None, Some(4), Some(4)]);
        let error = rules(Matryoshka::Of(vec![2, 4])).dimensions(Some(3)).unwrap_err();
        assert_eq!(error.message, "'dimensions' is 3; it may be 2, 4 or 8.");
    }

    #[test]
    fn vectors_are_cut_before_they_are_scaled() {
        assert_eq!(shaped(vec![3.0, 4.0, 12.0], 2, true), [0.6, 0.8]);
        assert_eq!(shaped(vec![3.0, 4.0, 12.0], 2, false), [3.0, 4.0]);
        assert_eq!(shaped(vec![0.0, 0.0], 2, true), [0.0, 0.0]);
    }
}
