//! Defects on purpose: what a careless shell around the cores would do. A simulator that does not notice one of them
//! within its seeds proves nothing.

/// One defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// Batches are acknowledged when they are written, not when they are synced.
    DurableBeforeSync,
    /// A failed sync is tried again, and the second answer is believed.
    FailedSyncIsRetried,
    /// A publish counts as done when it is sent: the next slot is tried before this one is known to be filled.
    PublishedWhenSent,
    /// An error counts as success.
    LostAnswerIsSuccess,
    /// A filled slot is passed over without a look at whose it is.
    FilledSlotIsPassedOver,
    /// A newer owner's objects are taken for an older one's.
    NewerOwnerIsIgnored,
    /// A new owner begins without a fence.
    NoFence,
    /// A new owner uploads what its cache holds of a former epoch.
    ForeignCacheIsSent,
    /// Acknowledgements of commits are sent when the segment is closed.
    CommittedWhenClosed,
    /// Recovery takes the page cache for the disk.
    PageCacheIsDurable,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::DurableBeforeSync,
        Self::FailedSyncIsRetried,
        Self::PublishedWhenSent,
        Self::LostAnswerIsSuccess,
        Self::FilledSlotIsPassedOver,
        Self::NewerOwnerIsIgnored,
        Self::NoFence,
        Self::ForeignCacheIsSent,
        Self::CommittedWhenClosed,
        Self::PageCacheIsDurable,
    ];
}
