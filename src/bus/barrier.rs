//! A promise that everything committed before a moment has been released and handed on.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot};

/// Somebody who waits. Once nobody waits for the answer any more it is dropped: while the database is away
/// clients come and go, and what is kept for one may hold its socket open.
struct Asked<Cut> {
    /// Called once, with the source between two batches: all that `Cut` says was released has been handed on by
    /// then, and nothing else.
    at: Box<dyn FnOnce(&Cut) + Send>,
    answer: oneshot::Sender<Cut>,
    when: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// After a look that was begun after it was asked for.
    Looked,
    /// Between any two batches.
    Next,
}

/// The tail's side.
pub struct Barriers<Cut> {
    asked: mpsc::UnboundedSender<Asked<Cut>>,
    waiting: mpsc::UnboundedReceiver<Asked<Cut>>,
    /// For a look that has not begun.
    before_next_look: Vec<Asked<Cut>>,
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

impl<Cut: Clone> Barriers<Cut> {
    pub fn new(wake: Arc<Notify>) -> Self {
        let (asked, waiting) = mpsc::unbounded_channel();
        Self {
            asked,
            waiting,
            before_next_look: Vec::new(),
            before_look: Vec::new(),
            looked: Vec::new(),
            wake,
        }
    }

    pub fn handle(&self) -> BarrierHandle<Cut> {
        BarrierHandle { asked: self.asked.clone(), wake: self.wake.clone() }
    }

    /// A look at the table begins.
    pub fn begin_look(&mut self) {
        self.take_in();
        self.before_look.append(&mut self.before_next_look);
        self.before_look.retain(|asked| !asked.answer.is_closed());
    }

    /// It was complete: it has shown all that had been committed when it began.
    pub fn end_look(&mut self) {
        self.looked.append(&mut self.before_look);
    }

    /// All that was found has been handed on.
    pub fn pass(&mut self, cut: impl FnOnce() -> Cut) {
        self.take_in();
        if self.looked.is_empty() {
            return;
        }
        let cut = cut();
        for Asked { at, answer, .. } in self.looked.drain(..) {
            if !answer.is_closed() {
                at(&cut);
                let _ = answer.send(cut.clone());
            }
        }
    }
}

impl<Cut> Barriers<Cut> {
    fn take_in(&mut self) {
        while let Ok(asked) = self.waiting.try_recv() {
            match asked.when {
                When::Looked => self.before_next_look.push(asked),
                When::Next => self.looked.push(asked),
            }
        }
    }
}

impl<Cut: Clone + Send + 'static> BarrierHandle<Cut> {
    /// Waits until all that was committed before this call has been released, and handed on to
    /// who follows the source. `at` is called in that moment, before anything newer is handed on. None: the
    /// source has ended. Where this is dropped before that moment `at` is dropped too, at the next look at the latest.
    pub async fn wait(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Option<Cut> {
        self.ask(at, When::Looked).await
    }

    /// The same without the wait for what was committed: the next moment between two batches.
    pub async fn next(&self, at: impl FnOnce(&Cut) + Send + 'static) -> Option<Cut> {
        self.ask(at, When::Next).await
    }

    async fn ask(&self, at: impl FnOnce(&Cut) + Send + 'static, when: When) -> Option<Cut> {
        let (answer, answered) = oneshot::channel();
        self.asked.send(Asked { at: Box::new(at), answer, when }).ok()?;
        self.wake.notify_one();
        answered.await.ok()
    }
}

impl<Cut> Clone for BarrierHandle<Cut> {
    fn clone(&self) -> Self {
        Self { asked: self.asked.clone(), wake: self.wake.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use futures_util::FutureExt;

    use super::*;

    /// What the asker has heard after each step.
    fn heard(when: When, steps: &[fn(&mut Barriers<u8>)]) -> Vec<bool> {
        let mut barriers = Barriers::new(Arc::default());
        let (sender, mut answered) = oneshot::channel();
        // A look is under way when it is asked for.
        barriers.begin_look();
        let asked = Asked { at: Box::new(|_: &u8| ()), answer: sender, when };
        assert!(barriers.asked.send(asked).is_ok());
        steps
            .iter()
            .map(|step| {
                step(&mut barriers);
                answered.try_recv().is_ok()
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
        assert_eq!(heard(When::Looked, &steps), [false, false, false, true]);
    }

    #[test]
    fn the_next_moment_between_two_batches_needs_no_look() {
        let steps: [fn(&mut Barriers<u8>); 1] = [|barriers| barriers.pass(|| 7)];
        assert_eq!(heard(When::Next, &steps), [true]);
        let steps: [fn(&mut Barriers<u8>); 2] = [Barriers::begin_look, |barriers| barriers.pass(|| 7)];
        assert_eq!(heard(When::Next, &steps), [false, true]);
        // Who waits for a look isn't let through with it.
        let steps: [fn(&mut Barriers<u8>); 3] =
            [|barriers| barriers.pass(|| 7), Barriers::end_look, |barriers| barriers.pass(|| 7)];
        assert_eq!(heard(When::Looked, &steps), [false, false, false]);
    }

    #[test]
    fn a_look_that_was_not_complete_does_not_count() {
        let steps: [fn(&mut Barriers<u8>); 3] =
            [Barriers::end_look, Barriers::begin_look, |barriers| barriers.pass(|| 7)];
        assert_eq!(heard(When::Looked, &steps), [false, false, false]);
    }

    /// A client's socket, say.
    fn kept(barriers: &mut Barriers<u8>, looks: usize) -> bool {
        let kept = Arc::new(());
        let keeps = kept.clone();
        let handle = barriers.handle();
        let mut waiting = Box::pin(handle.wait(move |_| drop(keeps)));
        assert!(waiting.as_mut().now_or_never().is_none());
        for _ in 0..looks {
            barriers.begin_look();
        }
        drop(waiting);
        barriers.begin_look();
        Arc::strong_count(&kept) > 1
    }

    #[test]
    fn of_who_leaves_while_the_database_is_away_nothing_is_kept() {
        let mut barriers = Barriers::new(Arc::default());
        assert!(!kept(&mut barriers, 0));
        assert!(!kept(&mut barriers, 3));
        assert!(barriers.before_look.is_empty());
    }

    #[test]
    fn who_has_left_is_not_called() {
        let mut barriers = Barriers::new(Arc::default());
        let called = Arc::new(AtomicBool::new(false));
        let calls = called.clone();
        let handle = barriers.handle();
        let mut waiting = Box::pin(handle.wait(move |_| calls.store(true, Relaxed)));
        assert!(waiting.as_mut().now_or_never().is_none());
        barriers.begin_look();
        barriers.end_look();
        drop(waiting);
        barriers.pass(|| 7);
        assert!(!called.load(Relaxed));
    }
}
