//! A promise that everything committed before a moment has been released and handed on.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

use super::position::Ids;

/// The tail's side.
#[derive(Debug)]
pub struct Barriers {
    asked: mpsc::UnboundedSender<oneshot::Sender<Ids>>,
    waiting: mpsc::UnboundedReceiver<oneshot::Sender<Ids>>,
    /// Asked for before the look that is under way began.
    before_look: Vec<oneshot::Sender<Ids>>,
    /// A complete look has been begun since. What it found may not have been handed on.
    looked: Vec<oneshot::Sender<Ids>>,
    wake: Arc<Notify>,
}

/// Whoever asks.
#[derive(Debug, Clone)]
pub struct BarrierHandle {
    asked: mpsc::UnboundedSender<oneshot::Sender<Ids>>,
    wake: Arc<Notify>,
}

impl Barriers {
    pub fn new(wake: Arc<Notify>) -> Self {
        let (asked, waiting) = mpsc::unbounded_channel();
        Self { asked, waiting, before_look: Vec::new(), looked: Vec::new(), wake }
    }

    pub fn handle(&self) -> BarrierHandle {
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
    pub fn pass(&mut self, released: impl Fn() -> Ids) {
        for asked in self.looked.drain(..) {
            let _ = asked.send(released());
        }
    }
}

impl BarrierHandle {
    /// Waits until all that was committed before this call has been released, and handed on to
    /// who follows the source; says what that is. None: the source has ended.
    pub async fn wait(&self) -> Option<Ids> {
        let (sender, answer) = oneshot::channel();
        self.asked.send(sender).ok()?;
        self.wake.notify_one();
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released() -> Ids {
        Ids { high: 7, gaps: Vec::new() }
    }

    /// What the asker has heard after each step.
    fn heard(steps: &[fn(&mut Barriers)]) -> Vec<bool> {
        let mut barriers = Barriers::new(Arc::default());
        let (sender, mut answer) = oneshot::channel();
        // A look is under way when it is asked for.
        barriers.begin_look();
        barriers.asked.send(sender).unwrap();
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
        let steps: [fn(&mut Barriers); 4] = [
            Barriers::end_look,
            |barriers| barriers.pass(released),
            |barriers| {
                barriers.begin_look();
                barriers.end_look();
            },
            |barriers| barriers.pass(released),
        ];
        assert_eq!(heard(&steps), [false, false, false, true]);
    }

    #[test]
    fn a_look_that_was_not_complete_does_not_count() {
        let steps: [fn(&mut Barriers); 3] =
            [Barriers::end_look, Barriers::begin_look, |barriers| barriers.pass(released)];
        assert_eq!(heard(&steps), [false, false, false]);
    }
}
