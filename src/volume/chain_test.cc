#include "volume/chain.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace fdbnbd::volume {
namespace {

constexpr uint64_t kExtents = 3;
constexpr uint64_t kBlocks = kExtents * ExtentBits::kBlocks;

// Layers as arrays of states; what a block reads as is looked up from the top down.
struct Model {
  std::vector<std::vector<BlockState>> layers;

  std::pair<BlockState, size_t> lookup(uint64_t block) const {
    for (size_t i = layers.size(); i-- > 0;) {
      if (layers[i][block] != BlockState::absent) return {layers[i][block], i};
    }
    return {BlockState::absent, 0};
  }
};

void expect_same(const ChainMap& map, const Model& model) {
  uint64_t data_count = 0;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    const auto [state, layer] = model.lookup(block);
    ASSERT_EQ(map.state(block), state) << block;
    if (state != BlockState::absent) {
      ASSERT_EQ(map.layer(*map.owner(block)).value, layer + 1) << block;
    }
    data_count += state == BlockState::data ? 1 : 0;
  }
  EXPECT_EQ(map.data_blocks_count(), data_count);
  uint64_t at = 0;
  map.for_each_run(0, kBlocks, [&](const ChainRun& run) {
    EXPECT_EQ(run.first_block, at);
    for (uint64_t i = 0; i < run.blocks_count; ++i) {
      const auto [state, layer] = model.lookup(at + i);
      EXPECT_EQ(run.state, state);
      if (state == BlockState::data) EXPECT_EQ(map.layer(run.slot).value, layer + 1);
    }
    at += run.blocks_count;
    return true;
  });
  EXPECT_EQ(at, kBlocks);
}

TEST(ChainMap, AnswersAsTheLayersDoOneByOne) {
  Random random(5);
  for (int round = 0; round < 20; ++round) {
    ChainMap map;
    Model model;
    const uint64_t layers_count = 1 + random.below(40);
    for (uint64_t layer = 0; layer < layers_count; ++layer) {
      model.layers.emplace_back(kBlocks, BlockState::absent);
      const LayerSlot slot = map.slot_of(LayerId{layer + 1});
      if (random.one_in(2)) {  // loaded from the store
        for (uint64_t extent = 0; extent < kExtents; ++extent) {
          ExtentBits own;
          const uint64_t density = 1 + random.below(50);
          for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i) {
            if (!random.one_in(density)) continue;
            own.set_state(i, static_cast<BlockState>(random.below(4)));
            model.layers[layer][extent * ExtentBits::kBlocks + i] = own.state(i);
          }
          map.overlay(extent, own, slot);
        }
        continue;
      }
      for (int change = 0; change < 30; ++change) {  // written while it is the top
        const uint64_t extent = random.below(kExtents);
        const auto first = static_cast<uint32_t>(random.below(ExtentBits::kBlocks));
        const auto count = static_cast<uint32_t>(1 + random.below(ExtentBits::kBlocks - first));
        ExtentBits own = map.own_states(extent, slot, 0, ExtentBits::kBlocks);
        for (uint32_t i = first; i < first + count; ++i) {
          // Only the lowest layer may lose a state.
          own.set_state(i, static_cast<BlockState>(layer == 0 ? random.below(4) : 1 + random.below(3)));
          model.layers[layer][extent * ExtentBits::kBlocks + i] = own.state(i);
        }
        map.change_own(extent, first, count, own, slot);
      }
    }
    expect_same(map, model);
    const size_t top = model.layers.size() - 1;
    const LayerSlot top_slot = map.slot_of(LayerId{top + 1});
    for (uint64_t extent = 0; extent < kExtents; ++extent) {
      const ExtentBits own = map.own_states(extent, top_slot, 0, ExtentBits::kBlocks);
      for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i)
        ASSERT_EQ(own.state(i), model.layers[top][extent * ExtentBits::kBlocks + i]);
    }
  }
}

TEST(ChainMap, ANewTopLayerCostsNothingAndAnExtentOfOneLayerLittle) {
  ExtentOwners owners(7);
  EXPECT_EQ(owners.memory_bytes(), 0U);
  owners.set_owner(0, 512, 8);
  EXPECT_LE(owners.memory_bytes(), 256U);
  owners.set_owner(512, 512, 8);
  EXPECT_EQ(owners.memory_bytes(), 0U) << "one owner again";
  EXPECT_EQ(owners.owner(1000), 8U);
}

TEST(ChainMap, AThousandOwnersInOneExtent) {
  ExtentOwners owners(0);
  for (int round = 0; round < 3; ++round) {
    for (uint32_t block = 0; block < ExtentBits::kBlocks; ++block)
      owners.set_owner(block, 1, block * 3 + static_cast<uint32_t>(round) * 10'000);
    for (uint32_t block = 0; block < ExtentBits::kBlocks; ++block)
      ASSERT_EQ(owners.owner(block), block * 3 + static_cast<uint32_t>(round) * 10'000);
  }
  EXPECT_LE(owners.memory_bytes(), 12U * 1024);
}

}  // namespace
}  // namespace fdbnbd::volume
