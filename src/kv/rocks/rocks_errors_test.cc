#include "kv/rocks/rocks_errors.h"

#include <gtest/gtest.h>

namespace fdbnbd::kv {
namespace {

using rocksdb::Status;

TEST(RocksErrors, EveryStatusHasAMeaning) {
  const struct {
    Status status;
    Errc code;
  } cases[] = {
      {Status::NotFound(), Errc::not_found},
      {Status::Corruption("x"), Errc::corruption},
      {Status::NotSupported("x"), Errc::not_supported},
      {Status::InvalidArgument("x"), Errc::invalid},
      {Status::IOError("x"), Errc::io},
      {Status::NoSpace(), Errc::no_space},
      {Status::SpaceLimit(), Errc::no_space},
      {Status::PathNotFound(), Errc::not_found},
      {Status::MergeInProgress("x"), Errc::io},
      {Status::Incomplete("x"), Errc::unavailable},
      {Status::ShutdownInProgress(), Errc::cancelled},
      {Status::TimedOut(), Errc::unavailable},
      {Status::Aborted(), Errc::io},
      {Status::Busy(), Errc::unavailable},
      {Status::Expired(), Errc::io},
      {Status::TryAgain(), Errc::unavailable},
      {Status::CompactionTooLarge(), Errc::io},
      {Status::ColumnFamilyDropped(), Errc::io},
  };
  for (const auto& c : cases) EXPECT_EQ(errc_of(c.status), c.code) << c.status.ToString();
  EXPECT_EQ(error_of(Status::IOError("disk on fire"), "reading").what, "reading: IO error: disk on fire");
}

}  // namespace
}  // namespace fdbnbd::kv
