#pragma once

#include <cstdint>
#include <string>

// How a test steers the fake client library (tests/fakes), which it and the engine load under the same name.

// X(name without "fake_fdb_", result, parameters)
#define FDBNBD_FAKE_FDB_FUNCTIONS(X)                                                                       \
  /* An empty cluster that answers; all scripts and counters are forgotten. */                             \
  X(reset, void, (uint64_t seed))                                                                          \
  /* The next `count` operations of this kind fail with `error`, behind those of earlier calls. */         \
  X(script, void, (int operation, int error, int outcome, int count))                                      \
  /* While on, commits wait; when it is turned off, all that wait are one batch, at one version. */        \
  X(hold_commits, void, (int hold))                                                                        \
  X(held_commits, int, ())                                                                                 \
  /* Commits whose outcome was `late` take effect now, unless they conflict by now. */                     \
  X(release_late_commits, void, ())                                                                        \
  X(late_commits, int, ())                                                                                 \
  /* Time passes: versions further back than the window are too old. */                                    \
  X(advance_versions, void, (int64_t versions))                                                            \
  X(set_window, void, (int64_t versions))                                                                  \
  /* While on, read versions are not given out. */                                                         \
  X(set_unreachable, void, (int unreachable))                                                              \
  /* While on, nothing is cancelled, as in a client of several versions that has not found the cluster. */ \
  X(set_cancel_ignored, void, (int ignored))                                                               \
  /* While on, read versions are not given out at batch priority. */                                       \
  X(set_batch_starved, void, (int starved))                                                                \
  /* While on, every call is answered before it returns, so that callbacks run inside the setting call. */ \
  X(set_immediate, void, (int immediate))                                                                  \
  /* While on, commits that wait at the same time share a version, as in a batch of a commit proxy. */     \
  X(set_batching, void, (int batching))                                                                    \
  X(count, int64_t, (int what))

extern "C" {
#define FDBNBD_FAKE_FDB_DECLARE(name, result, parameters) result fake_fdb_##name parameters;
FDBNBD_FAKE_FDB_FUNCTIONS(FDBNBD_FAKE_FDB_DECLARE)
#undef FDBNBD_FAKE_FDB_DECLARE
}

namespace fdbnbd::kv::fdb {

enum FakeOperation : int { kFakeReadVersion, kFakeGet, kFakeRange, kFakeCommit, kFakeOperations };

// What a commit that fails by the script does all the same.
enum FakeOutcome : int { kFakeNothing, kFakeApplied, kFakeLate };

enum FakeCount : int {
  kFakeReadVersions,       // given out
  kFakeBatchReadVersions,  // of these, at batch priority
  kFakeGets,
  kFakeRangeReplies,
  kFakeLargestReplyBytes,
  kFakeCommits,         // that took effect
  kFakeSharedVersions,  // of these, at the version of another one
  kFakeForbiddenOptions,
  kFakeInlineCallbacks,
  kFakeLiveFutures,
  kFakeLiveTransactions,
  kFakeLiveDatabases,
  kFakeCounts
};

// The control functions of the library at `path`, loaded.
struct FakeFdb {
  explicit FakeFdb(const std::string& path);

#define FDBNBD_FAKE_FDB_POINTER(name, result, parameters) result(*name) parameters = nullptr;
  FDBNBD_FAKE_FDB_FUNCTIONS(FDBNBD_FAKE_FDB_POINTER)
#undef FDBNBD_FAKE_FDB_POINTER
};

}  // namespace fdbnbd::kv::fdb
