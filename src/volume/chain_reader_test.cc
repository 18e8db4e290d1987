#include "volume/chain_reader.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <utility>

#include "async/scope.h"
#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/block_codec.h"

namespace fdbnbd::volume {
namespace {

constexpr uint32_t kBlock = 4096;

std::unique_ptr<kv::MemoryEngine> open_engine(std::shared_ptr<kv::MemoryDisk> disk, bool always_suspend) {
  kv::MemoryOptions options;
  options.disk = std::move(disk);
  options.always_suspend = always_suspend;
  options.capabilities = {.shared_between_hosts = true};
  return kv::open_memory_engine(options).value();
}

// A written volume of three layers. Blocks 0 and 1 were in the base when its reader looked, and have moved to
// the middle one since.
class ChainReaderTest : public testing::Test {
 protected:
  static constexpr LayerId kBase{1};
  static constexpr LayerId kMiddle{2};
  static constexpr LayerId kTop{3};
  static constexpr LayerId kNewTop{4};

  ChainReaderTest() {
    change([&](kv::Transaction& transaction) {
      put_layer(transaction, kBase, {});
      put_layer(transaction, kMiddle, kBase);
      put_layer(transaction, kTop, kMiddle);
      put_blocks(transaction, kBase, {{0, 1}, {1, 1}});
      transaction.set(fence_key_, FenceRecord{.top_layer = kTop}.encode());
    });
    EXPECT_TRUE(loop_.run(fence_.acquire()));
    EXPECT_TRUE(loop_.run(reader_.load(kTop)));
    change([&](kv::Transaction& transaction) {
      transaction.clear_range({keys_.layer_begin('D', kBase), keys_.layer_end('D', kBase)});
      transaction.clear_range({keys_.layer_begin('B', kBase), keys_.layer_end('B', kBase)});
      put_blocks(transaction, kMiddle, {{0, 1}, {1, 1}});
    });
  }

  // At once, whatever else is under way.
  template <typename Body>
  void change(Body body) {
    const auto transaction = at_once_->begin(loop_);
    body(*transaction);
    bool is_done = false;
    TaskScope scope;
    scope.spawn(commit(*transaction, is_done));
    ASSERT_TRUE(is_done);
  }
  static Task<void> commit(kv::Transaction& transaction, bool& is_done) {
    EXPECT_TRUE(co_await transaction.commit());
    is_done = true;
  }

  void put_layer(kv::Transaction& transaction, LayerId layer, LayerId parent) {
    LayerRecord record;
    record.parent = parent;
    transaction.set(keys_.layer(layer), record.encode());
  }
  void put_blocks(kv::Transaction& transaction, LayerId layer,
                  const std::vector<std::pair<uint32_t, uint8_t>>& contents) {
    ExtentBits bits;
    for (const auto& [block, fill] : contents) {
      std::string value;
      const std::vector<std::byte> bytes(kBlock, std::byte{fill});
      append_block_value(value, bytes, block, Compression::none);
      transaction.set(keys_.block(layer, {}, block), value);
      bits.set_state(block, BlockState::data);
    }
    transaction.set(keys_.bitmap(layer, 0), bits.encode());
  }

  // As a snapshot and then a write do, both of them known to the reader.
  void snapshot_and_write(uint32_t block, uint8_t fill) {
    change([&](kv::Transaction& transaction) {
      put_layer(transaction, kNewTop, kTop);
      put_blocks(transaction, kNewTop, {{block, fill}});
      FenceRecord record = fence_.record();
      record.top_layer = kNewTop;
      transaction.set(fence_key_, record.encode());
    });
    reader_.push_top(kNewTop);
    ExtentBits own;
    own.set_state(block, BlockState::data);
    reader_.map().change_own(0, block, 1, own, reader_.top_slot());
  }

  Task<void> read(uint64_t block, int& content) {
    std::vector<std::byte> bytes(kBlock);
    const auto segments = co_await reader_.read(block * kBlock, bytes, "disk");
    content = segments ? static_cast<int>(bytes.front()) : -1;
  }
  int content(uint64_t block) {
    int result = -1;
    loop_.run(read(block, result));
    return result;
  }

  SimLoop loop_{1};
  const std::shared_ptr<kv::MemoryDisk> disk_ = kv::make_memory_disk();
  const std::unique_ptr<kv::MemoryEngine> at_once_ = open_engine(disk_, false);
  const std::unique_ptr<kv::MemoryEngine> engine_ = open_engine(disk_, true);
  const KeySpace keys_{""};
  const std::string fence_key_ = keys_.fence({1});
  Fence fence_{*engine_, loop_, fence_key_, InstanceId{7}};
  ChainReader reader_{*engine_,
                      loop_,
                      keys_,
                      {.block_shift = 12, .striping = {}},
                      {.fence = &fence_, .fence_key = fence_key_}};
};

// How many steps of the loop a snapshot comes after the read began.
class ChainReaderAt : public ChainReaderTest, public testing::WithParamInterface<int> {};

TEST_F(ChainReaderTest, BlocksThatHaveMovedUpAreFound) {
  EXPECT_EQ(content(0), 1);
  EXPECT_EQ(content(1), 1);
}

TEST_P(ChainReaderAt, ALookUpLeavesWhatIsWrittenAfterASnapshotThatOvertakesIt) {
  int first = -1;
  TaskScope scope;
  scope.spawn(read(0, first));
  for (int step = 0; step < GetParam(); ++step) ASSERT_TRUE(loop_.step()) << "the read has long ended";
  EXPECT_EQ(first, -1) << "the snapshot comes after the read";
  snapshot_and_write(1, 2);
  while (loop_.step()) {
  }
  EXPECT_EQ(first, 1);
  EXPECT_EQ(content(1), 2);
}

INSTANTIATE_TEST_SUITE_P(Steps, ChainReaderAt, testing::Range(0, 18));

}  // namespace
}  // namespace fdbnbd::volume
