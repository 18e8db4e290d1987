#include "kv/fdb/errors.h"

#include <gtest/gtest.h>

#include <map>

namespace fdbnbd::kv::fdb {
namespace {

struct Row {
  Meaning read;
  Meaning commit;
};

constexpr Meaning kTooOld{Errc::unavailable, Remedy::new_read_version};
constexpr Meaning kSoon{Errc::unavailable, Remedy::short_wait};
constexpr Meaning kAtLimit{Errc::unavailable, Remedy::long_wait};
constexpr Meaning kConflict{Errc::conflict, Remedy::check_fence};
constexpr Meaning kDecided{Errc::unknown_result, Remedy::retry_under_lock};
constexpr Meaning kInFlight{Errc::unknown_result, Remedy::barrier};
constexpr Meaning kStopping{Errc::cancelled, Remedy::none};
constexpr Meaning kFailed{Errc::io, Remedy::none};
constexpr Meaning kNotReachable{Errc::unavailable, Remedy::none};

const std::map<fdb_error_t, Row>& table() {
  static const std::map<fdb_error_t, Row> rows = {
      {1007, {kTooOld, kTooOld}},
      {1009, {kSoon, kSoon}},
      {1037, {kSoon, kSoon}},
      {1020, {kConflict, kConflict}},
      {1021, {kSoon, kDecided}},
      {1025, {kStopping, kInFlight}},
      {1101, {kStopping, kInFlight}},
      {1031, {kSoon, kInFlight}},
      {1039, {kSoon, kInFlight}},
      {1004, {kSoon, kInFlight}},
      {1006, {kSoon, kInFlight}},
      {1026, {kSoon, kInFlight}},
      {1027, {kSoon, kInFlight}},
      {1028, {kSoon, kInFlight}},
      {1100, {kSoon, kInFlight}},
      {1038, {kAtLimit, kAtLimit}},
      {1042, {kAtLimit, kAtLimit}},
      {1051, {kAtLimit, kAtLimit}},
      {1078, {kAtLimit, kAtLimit}},
      {1213, {kAtLimit, kAtLimit}},
      {1223, {kAtLimit, kAtLimit}},
      {1235, {kAtLimit, kAtLimit}},
      {1242, {kAtLimit, kAtLimit}},
      {1515, {kNotReachable, kNotReachable}},
      {2025, {kStopping, kStopping}},
      {2101, {{Errc::too_large, Remedy::none}, {Errc::too_large, Remedy::none}}},
      {2104, {{Errc::invalid, Remedy::none}, {Errc::invalid, Remedy::none}}},
      {2124, {kNotReachable, kNotReachable}},
      {2125, {kNotReachable, kNotReachable}},
      {2000, {kFailed, kFailed}},
      {2017, {kFailed, kFailed}},
      {2102, {kFailed, kFailed}},
      {2103, {kFailed, kFailed}},
      {4100, {kFailed, kInFlight}},
  };
  return rows;
}

TEST(FdbErrors, EachKnownNumberHasItsMeaning) {
  for (const auto& [error, row] : table()) {
    EXPECT_EQ(meaning_of(error, Operation::read), row.read) << error;
    EXPECT_EQ(meaning_of(error, Operation::commit), row.commit) << error;
  }
}

TEST(FdbErrors, OfOtherNumbersACommitMayHaveHappenedUnlessTheLibraryRefusedTheCall) {
  for (fdb_error_t error = -1; error < 6000; ++error) {
    if (error == 0 || table().contains(error)) continue;
    EXPECT_EQ(meaning_of(error, Operation::read), kFailed) << error;
    const bool is_refusal = error >= 2000 && error < 3000;
    EXPECT_EQ(meaning_of(error, Operation::commit), is_refusal ? kFailed : kInFlight) << error;
  }
}

}  // namespace
}  // namespace fdbnbd::kv::fdb
