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
    /// A write goes to the disk before its regions are recorded hot and synced.
    WrittenBeforeHot,
    /// Regions are cooled when their writes are durable, not when they are committed.
    CooledUncommitted,
    /// Regions are cooled although the disk was not synced.
    CooledUnsynced,
    /// Every activity log that can be read is believed: whoever changed the disk, whatever life wrote it.
    AnyActivityLogIsTrusted,
    /// An activity log that can be neither written nor emptied is not disavowed in the agent's state.
    DisavowalIsNotNoted,
    /// Digests are of an older state than the one that this life follows.
    ComparedWithOlder,
    /// A write lets go of its range before it is on the disk: overlapping writes reach disk and log in different orders.
    RangeLetGoEarly,
    /// The scanner reads before it holds the range.
    ScanReadsUnlocked,
    /// A mark is said to be later than it was taken.
    MarkedAfterTheFact,
    /// A write that failed goes to the log as if it had not.
    FailedWriteIsDone,
    /// Records of gaps do not get into the log.
    GapIsNotTold,
    /// The agent holds whatever comes.
    BudgetIsIgnored,
    /// A process server gives credit without end.
    CreditIsIgnored,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 23] = [
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
        Self::WrittenBeforeHot,
        Self::CooledUncommitted,
        Self::CooledUnsynced,
        Self::AnyActivityLogIsTrusted,
        Self::DisavowalIsNotNoted,
        Self::ComparedWithOlder,
        Self::RangeLetGoEarly,
        Self::ScanReadsUnlocked,
        Self::MarkedAfterTheFact,
        Self::FailedWriteIsDone,
        Self::GapIsNotTold,
        Self::BudgetIsIgnored,
        Self::CreditIsIgnored,
    ];

    /// The invariant that it breaks.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::ComparedWithOlder
            | Self::RangeLetGoEarly
            | Self::ScanReadsUnlocked
            | Self::MarkedAfterTheFact
            | Self::FailedWriteIsDone => "I2",
            Self::DurableBeforeSync
            | Self::FailedSyncIsRetried
            | Self::LostAnswerIsSuccess
            | Self::CommittedWhenClosed
            | Self::PageCacheIsDurable => "I3",
            Self::PublishedWhenSent
            | Self::FilledSlotIsPassedOver
            | Self::NewerOwnerIsIgnored
            | Self::NoFence
            | Self::ForeignCacheIsSent => "I4",
            Self::WrittenBeforeHot
            | Self::CooledUncommitted
            | Self::CooledUnsynced
            | Self::AnyActivityLogIsTrusted
            | Self::DisavowalIsNotNoted => "I5",
            Self::GapIsNotTold => "I6",
            Self::BudgetIsIgnored | Self::CreditIsIgnored => "I10",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutation| format!("{mutation:?}") == name)
    }
}
