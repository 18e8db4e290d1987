#include "volume/open_snapshots.h"

#include <gtest/gtest.h>

#include "volume/hosts_testing.h"

namespace fdbnbd::volume {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Opened = std::optional<Result<std::shared_ptr<block::Export>>>;

class OpenSnapshotsTest : public HostsFixture {};

// What is stored moves to the volume's own layer then, out of those that the snapshot is read from.
TEST_F(OpenSnapshotsTest, ASnapshotThatIsRemovedWhileItIsOpenedIsNotEmpty) {
  for (int steps_count = 1; steps_count <= 30; ++steps_count) {
    ASSERT_TRUE(a_.loop.run(a_.store->snapshot({"disk@s"}, {})));
    Opened opened;
    TaskScope scope;
    b_.engine->faults().set_latency(milliseconds(10), milliseconds(10));
    const auto open_snapshot = [](Host& host, Opened& result) -> Task<void> {
      result = co_await host.store->open(host.loop, "disk@s");
    };
    scope.spawn(open_snapshot(b_, opened));
    b_.live(milliseconds(5 * steps_count));
    ASSERT_TRUE(a_.loop.run(a_.store->remove("disk@s", {})));
    a_.live(seconds(2));
    b_.engine->faults().set_latency({}, {});
    b_.live(seconds(2));
    ASSERT_TRUE(opened);
    if (!*opened) {
      EXPECT_EQ(opened->error().code, Errc::not_found) << opened->error().what;
      continue;
    }
    std::vector<std::byte> bytes(4096);
    const auto read = b_.loop.run((**opened)->read(0, bytes));
    if (!read) {
      EXPECT_EQ(read.error().code, Errc::not_found) << read.error().what;
    } else {
      EXPECT_FALSE(read->front().is_hole) << "after " << steps_count << " steps";
    }
    opened->value().reset();
    b_.live(milliseconds(100));
  }
}

}  // namespace
}  // namespace fdbnbd::volume
