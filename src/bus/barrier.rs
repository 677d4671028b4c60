//! A promise that everything committed before a moment has been released and handed on.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

/// What is called once, with the source between two batches: all that `Cut` says was released has been
/// handed on by then, and nothing else.
type Asked<Cut> = Box<dyn FnOnce(&Cut) + Send>;

/// The tail's side.
pub struct Barriers<Cut> {
    asked: mpsc::UnboundedSender<Asked<Cut>>,
    waiting: mpsc::UnboundedReceiver<Asked<Cut>>,
    /// Asked for before the look that is under way began.
    before_look: Vec<Asked<Cut>>,
    /// A complete look has been begun since. What it found may not have been handed on.
    looked: Vec<Asked<Cut>>,
    wake: Arc<Notify>,
}

/// Whoever asks.
pub struct BarrierHandle<Cut> {
    asked: mpsc::UnboundedSender<Asked<Cut>>,
    wake: Arc<Notify>,
}

impl<Cut> Barriers<Cut> {
    pub fn new(wake: Arc<Notify>) -> Self {
        let (asked, waiting) = mpsc::unbounded_channel();
        Self { asked, waiting, before_look: Vec::new(), looked: Vec::new(), wake }
    }

    pub fn handle(&self) -> BarrierHandle<Cut> {
        BarrierHandle { asked: self.asked.clone(), wake: self.wake.clone() }
    }

    /// A look at the table begins.
    pub fn begin_look(&mut self) {
        while let Ok(asked) = self.waiting.try_recv() {
            self.before_look.push(asked);
        }
    }

    /// It was complete: it has shown all that had been committed when it began.
    pub fn end_look(&mut self) {
        self.looked.append(&mut self.before_look);
    }

    /// All that was found has been handed on.
    pub fn pass(&mut self, cut: impl FnOnce() -> Cut) {
        if self.looked.is_empty() {
            return;
        }
        let cut = cut();
        for asked in self.looked.drain(..) {
            asked(&cut);
        }
    }
}

impl<Cut: Clone + Send + 'static> BarrierHandle<Cut> {
    /// Waits until all that was committed before this call has been released, and handed on to
    /// who follows the source. `at` is called in that moment, before anything newer is handed on. None: the
    /// source has ended.
    pub async fn wait(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Option<Cut> {
        let (sender, answer) = oneshot::channel();
        let asked = move |cut: &Cut| {
            at(cut);
            let _ = sender.send(cut.clone());
        };
        self.asked.send(Box::new(asked)).ok()?;
        self.wake.notify_one();
        answer.await.ok()
    }
}

impl<Cut> Clone for BarrierHandle<Cut> {
    fn clone(&self) -> Self {
        Self { asked: self.asked.clone(), wake: self.wake.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the asker has heard after each step.
    fn heard(steps: &[fn(&mut Barriers<u8>)]) -> Vec<bool> {
        let mut barriers = Barriers::new(Arc::default());
        let (sender, mut answer) = oneshot::channel();
        // A look is under way when it is asked for.
        barriers.begin_look();
        let asked = |cut: &u8| sender.send(*cut).unwrap();
        assert!(barriers.asked.send(Box::new(asked)).is_ok());
        steps
            .iter()
            .map(|step| {
                step(&mut barriers);
                answer.try_recv().is_ok()
            })
            .collect()
    }

    #[test]
    fn a_look_that_was_under_way_does_not_count() {
        let steps: [fn(&mut Barriers<u8>); 4] = [
            Barriers::end_look,
            |barriers| barriers.pass(|| 7),
            |barriers| {
                barriers.begin_look();
                barriers.end_look();
            },
            |barriers| barriers.pass(|| 7),
        ];
        assert_eq!(heard(&steps), [false, false, false, true]);
    }

    #[test]
    fn a_look_that_was_not_complete_does_not_count() {
        let steps: [fn(&mut Barriers<u8>); 3] =
            [Barriers::end_look, Barriers::begin_look, |barriers| barriers.pass(|| 7)];
        assert_eq!(heard(&steps), [false, false, false]);
    }
}
