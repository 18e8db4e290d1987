#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "base/limits.h"

// Bounds, as those of limits.h, which they are to join.

namespace fdbnbd::limits {

// Volumes that another server writes, served read-only (volume/live_view.h).
inline constexpr uint64_t kLiveViewPieceBytes = kMiB;     // of a read that are of one instant
inline constexpr uint64_t kLiveViewStatusExtents = 1024;  // of bitmaps that one BLOCK_STATUS looks at
inline constexpr size_t kSnapshotReadsInFlight = 64;      // of one bulk read at one version

// Background work and flattening.
inline constexpr auto kJobScanInterval = std::chrono::seconds(30);   // for jobs that other servers made
inline constexpr auto kMaxJobRetryDelay = std::chrono::seconds(60);  // of a job that the store refuses
inline constexpr uint32_t kMaxFlattenRounds = 100;                   // that snapshots make begin again

}  // namespace fdbnbd::limits
