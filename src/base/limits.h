#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

// Every bound of the product, in one place. What can be configured has its default here.

namespace fdbnbd::limits {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;

// NBD handshake (NBD proto: strings are at most 4096 bytes).
inline constexpr uint32_t kMaxStringBytes = 4096;
inline constexpr uint32_t kMaxOptionBytes = 272 * 1024;          // larger payloads are skipped and refused
inline constexpr uint32_t kMaxSkippedOptionBytes = 32 * kMiB;    // larger claims end the connection
inline constexpr uint32_t kMaxOptionsPerHandshake = 1024;        // then the connection ends
inline constexpr uint64_t kMaxHandshakeBytes = 64 * kMiB;        // all options of one handshake
inline constexpr uint32_t kMaxHandshakeOutputBytes = 64 * 1024;  // encoded and not yet sent
inline constexpr uint32_t kMaxMetaQueries = 64;                  // per SET or LIST_META_CONTEXT
inline constexpr auto kHandshakeTimeout = std::chrono::seconds(10);

// NBD transmission.
inline constexpr uint32_t kMaxPayloadBytes = 32 * kMiB;  // of one READ or WRITE, and as advertised
inline constexpr uint32_t kMaxSkippedPayloadBytes =
    64 * kMiB;                                            // a larger WRITE is read and refused up to here
inline constexpr uint32_t kMaxStatusExtents = 64 * 1024;  // in one BLOCK_STATUS chunk
inline constexpr uint64_t kStatusExtentAlignment = 64 * kKiB;     // where an extent near 4 GiB is cut
inline constexpr uint32_t kMinUnfragmentedReadBytes = 64 * kKiB;  // NBD proto: DF reads up to here must work

// Connections.
inline constexpr uint32_t kMaxConnections = 4096;
inline constexpr uint32_t kMaxHandshakingConnections = 256;
inline constexpr uint32_t kMaxRequestsPerConnection = 512;  // in flight
inline constexpr uint64_t kConnectionInFlightBytes = 64 * kMiB;
inline constexpr uint64_t kProcessInFlightBytes = 256 * kMiB;
// The part of the process's bytes that only requests of at most kSmallRequestBytes may use, so that a few
// large ones do not stop everybody else.
inline constexpr uint64_t kReservedForSmallBytes = 32 * kMiB;
inline constexpr uint32_t kSmallRequestBytes = 256 * kKiB;
inline constexpr uint32_t kReceiveBufferBytes = 128 * kKiB;
inline constexpr auto kSendStallTimeout = std::chrono::seconds(60);  // no byte taken by the peer
inline constexpr auto kContendedStallTimeout =
    std::chrono::seconds(5);                                        // the same while others wait for memory
inline constexpr auto kStopTimeout = std::chrono::seconds(40);      // SIGTERM: all of it, the store included
inline constexpr auto kShutdownTimeout = std::chrono::seconds(30);  // SIGTERM: to answer what is in flight
// A peer holds its memory only while it moves at least this much per stall timeout...
inline constexpr uint64_t kMinProgressBytes = 64 * kKiB;
// ... and, while others wait, this part of what it holds.
inline constexpr uint64_t kContendedProgressDivisor = 32;
inline constexpr auto kLingerTimeout = std::chrono::seconds(2);  // for the peer to close after us
inline constexpr uint64_t kRequestOverheadBytes = kKiB;          // what a request without data counts for
inline constexpr uint64_t kPooledBufferBytes = 16 * kMiB;        // free request buffers, per I/O thread
inline constexpr uint64_t kReceiveTurnBytes = kMiB;              // of one payload before others get a turn
inline constexpr int kUnixSendBufferBytes = 2 * 1024 * 1024;
// A TCP peer that vanished without a word is noticed after about a minute.
inline constexpr auto kKeepaliveIdle = std::chrono::seconds(30);
inline constexpr auto kKeepaliveInterval = std::chrono::seconds(10);
inline constexpr int kKeepaliveProbes = 3;
inline constexpr auto kTcpUserTimeout = std::chrono::seconds(60);  // sent and not acknowledged
inline constexpr int kListenBacklog = 1024;
inline constexpr uint32_t kMaxActivationSockets = 64;                      // taken from the service manager
inline constexpr auto kAcceptRetryDelay = std::chrono::milliseconds(100);  // out of descriptors or memory

// Volumes.
inline constexpr uint32_t kMaxVolumeNameBytes = 255;
inline constexpr uint64_t kSizeGranularityBytes = 512;
inline constexpr uint64_t kMaxVolumeBytes =
    INT64_MAX - 511;  // 8 EiB - 512, the largest multiple of 512 below 8 EiB
inline constexpr uint32_t kMinBlockBytes = 4 * kKiB;
inline constexpr uint32_t kMaxBlockBytes = 64 * kKiB;
inline constexpr uint32_t kDefaultBlockBytes = 4 * kKiB;
inline constexpr uint32_t kBlocksPerExtent = 1024;
inline constexpr uint32_t kMaxRequestsPerVolume = 4096;  // in flight or queued; above it requests wait

// Labels of a volume.
inline constexpr uint32_t kMaxLabels = 64;
inline constexpr uint32_t kMaxLabelKeyBytes = 255;
inline constexpr uint32_t kMaxLabelValueBytes = 255;

// The trash.
inline constexpr auto kDefaultTrashRetention = std::chrono::hours(24);
inline constexpr auto kMaxTrashRetention = std::chrono::hours(24 * 3650);
// How often whoever has the store looks for volumes that have been in the trash for long enough.
inline constexpr auto kTrashLookInterval = std::chrono::seconds(60);

// Ownership where several servers share a store (volume/lease.h).
inline constexpr auto kLeaseDuration =
    std::chrono::seconds(5);  // a holder that is silent for so long has lost
inline constexpr auto kMinLeaseDuration = std::chrono::seconds(1);
inline constexpr auto kMaxLeaseDuration = std::chrono::seconds(300);
inline constexpr uint32_t kHeartbeatsPerLease = 5;
inline constexpr uint32_t kLeasePollsPerLease = 25;  // of somebody who waits for it
// Reads end this part of a lease before it does: clocks do not run equally fast.
inline constexpr uint32_t kLeaseReadMarginDivisor = 10;
inline constexpr uint32_t kMaxHolderBytes = 200;  // who holds a volume, as text
inline constexpr auto kHandoverTimeout = std::chrono::seconds(30);
inline constexpr auto kHandoverPoll = std::chrono::milliseconds(20);
inline constexpr auto kTakeoverGrace = std::chrono::seconds(60);  // for the clients to come over

// Snapshots.
inline constexpr uint32_t kMaxVolumesPerSnapshot = 1000;   // of one instant
inline constexpr uint32_t kMaxKnownSnapshots = 100'000;    // whose names are kept in memory
inline constexpr uint32_t kMaxSnapshotsToLearn = 100;      // of one volume
inline constexpr uint32_t kMaxGroupMembers = 256;          // which are rolled back in one transaction
inline constexpr uint32_t kMaxSnapshotsPerRemoval = 1000;  // of one transaction
inline constexpr uint64_t kMergeStepBytes = 256 * kKiB;    // of blocks that one step moves to another layer
inline constexpr uint32_t kMergeStepsPerTurn = 64;         // then other jobs and openers get a turn
inline constexpr uint32_t kJobsAtOnceInSharedStore = 8;    // each waits for the cluster most of the time
// A step is followed by a pause as long as itself, up to this, so that clients have their share of the store.
inline constexpr auto kMaxJobPause = std::chrono::milliseconds(50);
inline constexpr auto kJobRetryDelay = std::chrono::milliseconds(200);  // of a job that has to wait
inline constexpr auto kMaxJobRetryDelay = std::chrono::seconds(60);     // of one that the store refuses
inline constexpr auto kJobScanInterval = std::chrono::seconds(30);      // for jobs that other servers made
inline constexpr uint32_t kMaxFlattenRounds = 100;                      // that snapshots make begin again

// Volumes that another server writes, served read-only (volume/live_view.h).
inline constexpr uint64_t kLiveViewPieceBytes = kMiB;     // of a read that are of one instant
inline constexpr uint64_t kLiveViewStatusExtents = 1024;  // of bitmaps that one BLOCK_STATUS looks at
inline constexpr size_t kSnapshotReadsInFlight = 64;      // of one bulk read at one version

// Comparing two points of a volume.
inline constexpr uint32_t kMaxDiffRanges = 4096;       // of one answer
inline constexpr uint32_t kDiffBitmapsPerPage = 4096;  // that one transaction reads, of all layers
inline constexpr uint32_t kDiffLookUpsPerPage = 64;    // extents that it looks for in shared layers too

// Transactions.
inline constexpr uint64_t kCommitTargetBytes = 260 * kKiB;  // group commit closes one here: 64 rows of 4 KiB
inline constexpr uint32_t kMaxPartialCommits = 4;           // under way at once that hold less than that
inline constexpr uint64_t kMaxTransactionBytes = kMiB;
inline constexpr uint32_t kMaxMutationsPerCommit = 1000;
inline constexpr uint32_t kMaxTransactionAttempts = 100;  // of a metadata transaction that conflicts
inline constexpr size_t kMaxReceiptsKept = 16;            // of transactions that are decided, before they go
inline constexpr uint32_t kReceiptsPerClearing = 1000;    // of those that others have left
inline constexpr auto kReceiptLifetime = std::chrono::hours(24);  // nobody asks the store for so long
inline constexpr uint64_t kMaxValueBytes = 90'000;                // FoundationDB takes 100,000
inline constexpr uint32_t kMaxKeyBytes = 1024;

// Embedded stores.
inline constexpr uint32_t kMaxResolverEntries = 64 * 1024;  // conflict ranges that are remembered
inline constexpr uint64_t kMemoryHistoryBytes = 64 * kMiB;  // replaced values that old reads may still want
inline constexpr uint64_t kDefaultRocksMemoryBytes = 128 * kMiB;
inline constexpr uint64_t kMinRocksMemoryBytes = 32 * kMiB;

// FoundationDB.
inline constexpr auto kFdbConnectTimeout = std::chrono::seconds(10);        // for the first answer
inline constexpr auto kFdbCancelPatience = std::chrono::milliseconds(200);  // after that
inline constexpr auto kFdbReadVersionLifetime = std::chrono::seconds(4);    // the cluster keeps about 5 s
inline constexpr auto kFdbStallWarning = std::chrono::seconds(10);          // without an answer
inline constexpr uint32_t kFdbCommitsInFlight = 16;                         // of one volume
inline constexpr int64_t kFdbTransactionBytes = 4 * kMiB;                   // larger ones are refused
inline constexpr uint64_t kFdbRangeReplyBytes = 79'900;        // what one reply to a range read surely holds
inline constexpr uint64_t kFdbRangePageBytes = kMiB;           // of several replies to one get_range
inline constexpr size_t kFdbReadsInFlight = 128;               // of one bulk read
inline constexpr uint32_t kFdbReadsPerTransaction = 1000;      // that share a read version
inline constexpr auto kFdbLongWait = std::chrono::seconds(1);  // the cluster is at a limit
// Background work that the cluster gives no read version for so long does not yield for a while.
inline constexpr auto kFdbBackgroundPatience = std::chrono::milliseconds(500);
inline constexpr auto kFdbBackgroundUrgency = std::chrono::seconds(5);
// It is put off where it would have to wait longer before it commits: its read version would become too old.
inline constexpr auto kFdbMaxBackgroundCommitWait = std::chrono::seconds(2);
// How commits are paced (kv/fdb/pacer.h). Read versions that are paid with, outstanding at once:
inline constexpr uint32_t kFdbInitialPayments = 16;
inline constexpr uint32_t kFdbMaxPayments = 256;
inline constexpr auto kFdbQuickReadVersion =
    std::chrono::milliseconds(20);                                          // more of them may be outstanding
inline constexpr auto kFdbSlowReadVersion = std::chrono::milliseconds(60);  // half as many
inline constexpr uint32_t kFdbMaxCommits = 256;                             // under way, of all volumes
inline constexpr auto kFdbQuickCommit = std::chrono::milliseconds(50);
inline constexpr auto kFdbSlowCommit = std::chrono::milliseconds(250);
inline constexpr auto kFdbRefusalPause = std::chrono::milliseconds(200);  // after the cluster refused one
// FoundationDB slows its clients down from 900 MB on; at 1,500 MB a storage server takes no more.
inline constexpr uint64_t kFdbStorageQueueBytes = 750'000'000;
static_assert(kFdbTransactionBytes >= static_cast<int64_t>(2 * kMaxTransactionBytes));

// Control socket.
inline constexpr uint64_t kMaxControlMessageBytes = kMiB;      // of a request
inline constexpr uint64_t kMaxControlReplyBytes = 256 * kMiB;  // that a client takes
inline constexpr uint32_t kMaxControlConnections = 64;
inline constexpr size_t kMaxJsonFields = 256;  // of one object
static_assert(kMaxLabels <= kMaxJsonFields);

// The tool's copies and loads.
inline constexpr uint64_t kTransferRequestBytes = 512 * kKiB;
inline constexpr size_t kTransferRequestsInFlight = 16;
inline constexpr uint64_t kMaxStreamDataBytes = kMiB;   // of one record of export-diff
inline constexpr uint64_t kTransferZeroBytes = kGiB;    // of one WRITE_ZEROES
inline constexpr uint64_t kTransferStatusBytes = kGiB;  // asked for in one BLOCK_STATUS
// After this the snapshot of an export-diff of which nobody knows whether it still runs is a leftover.
inline constexpr auto kExportLeftoverAge = std::chrono::hours(24 * 7);
inline constexpr uint32_t kMaxBenchDepth = 1024;
inline constexpr uint32_t kMaxBenchSeconds = 3600;

// Volumes attached to the kernel's NBD client.
inline constexpr uint32_t kMaxDeviceIndex = (1U << 20) - 1;  // the kernel's own bound is not above it
inline constexpr uint32_t kMaxDeviceConnections = 16;
inline constexpr uint32_t kDefaultDeviceConnections = 2;
inline constexpr uint32_t kMaxHandshakeReplies = 64;              // to one option that we send
inline constexpr auto kServerPatience = std::chrono::seconds(5);  // for each answer of a handshake
inline constexpr auto kDeviceSizePoll = std::chrono::seconds(2);
inline constexpr auto kDeviceStatePoll = std::chrono::seconds(1);
inline constexpr auto kMinReconnectDelay = std::chrono::milliseconds(100);
inline constexpr auto kMaxReconnectDelay = std::chrono::seconds(1);
// Between two connections that a device gets, so that a thread of the kernel reads the first one when the
// second one comes.
inline constexpr auto kReconnectSpacing = std::chrono::milliseconds(100);
inline constexpr auto kDetachPatience = std::chrono::seconds(20);
inline constexpr uint32_t kMaxDeviceTimeoutSeconds = 7 * 24 * 3600;
inline constexpr uint32_t kDefaultRequestTimeoutSeconds = 10;
inline constexpr uint32_t kDefaultDeadTimeoutSeconds = 600;

// Disks of other programs that are imported.
inline constexpr uint32_t kMaxLegacyBlockBytes = kMiB;
inline constexpr uint32_t kMaxLegacyLayers = 256;    // a disk and what it is a snapshot of, of that, ...
inline constexpr uint32_t kMaxLegacyNamesShown = 8;  // where the one that was asked for is not there

// The longest legal META_CONTEXT request fits.
static_assert(kMaxOptionBytes >= 4 + kMaxStringBytes + 4 + kMaxMetaQueries * (4 + kMaxStringBytes));
static_assert(kMaxHolderBytes <= 255);  // a byte for the length
static_assert(kMaxVolumeNameBytes <= 255 && kMaxLabelKeyBytes <= 255 && kMaxLabelValueBytes <= 255);
static_assert(kMaxLabels <= 255 && kMaxGroupMembers <= 65535);
static_assert(uint64_t{kMaxLabels} * (kMaxLabelKeyBytes + kMaxLabelValueBytes + 2) < kMaxValueBytes);
static_assert(kMaxPayloadBytes <= kConnectionInFlightBytes);
static_assert(kConnectionInFlightBytes <= kProcessInFlightBytes - kReservedForSmallBytes);
static_assert(kMaxVolumeBytes % kSizeGranularityBytes == 0);
static_assert(kMaxBlockBytes + 64 <= kMaxValueBytes);

}  // namespace fdbnbd::limits
