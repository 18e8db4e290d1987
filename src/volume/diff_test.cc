#include "volume/diff.h"

#include "base/limits.h"
#include "volume/store_fixture_testing.h"

namespace fdbnbd::volume {
namespace {

constexpr DiffKind kData = DiffKind::data;
constexpr DiffKind kZero = DiffKind::zero;

class DiffTest : public StoreFixture {
 protected:
  // The ranges in blocks: first, count, kind.
  struct Blocks {
    uint64_t first;
    uint64_t count;
    DiffKind kind;
    friend bool operator==(const Blocks&, const Blocks&) = default;
    friend void PrintTo(const Blocks& blocks, std::ostream* out) {
      *out << blocks.first << "+" << blocks.count << " " << diff_kind_name(blocks.kind);
    }
  };

  DiffPage page(const std::string& name, std::optional<std::string> from, uint64_t begin_bytes = 0) {
    return run(store_->diff(name, std::move(from), begin_bytes, nullptr)).value();
  }
  std::vector<Blocks> diff(const std::string& name, std::optional<std::string> from = std::nullopt) {
    std::vector<Blocks> blocks;
    for (const DiffRange& range : page(name, std::move(from)).ranges)
      blocks.push_back({range.offset_bytes / kBlock, range.length_bytes / kBlock, range.kind});
    return blocks;
  }
  using List = std::vector<Blocks>;
};

TEST_F(DiffTest, WhatAVolumeHoldsIsADiffAgainstNothing) {
  create("disk");
  EXPECT_EQ(diff("disk"), List{});
  const auto disk = open_disk("disk");
  write(*disk, 3, 1, 2);
  write(*disk, 2000, 1, 3);
  ASSERT_TRUE(run(disk->trim(2001 * kBlock, kBlock, {})));
  EXPECT_EQ(diff("disk"), (List{{3, 2, kData}, {2000, 1, kData}, {2002, 1, kData}}));
  const DiffPage whole = page("disk", std::nullopt);
  EXPECT_EQ(whole.from_size_bytes, 0U);
  EXPECT_EQ(whole.to_size_bytes, 16U << 20);
  EXPECT_EQ(whole.block_bytes, kBlock);
  EXPECT_EQ(whole.end_bytes, 16U << 20);
}

TEST_F(DiffTest, BetweenTwoPointsOnlyWhatWasWrittenBetweenThemIsTold) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 10);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 1, 2);
  ASSERT_TRUE(run(disk->trim(5 * kBlock, 2 * kBlock, {})));
  ASSERT_TRUE(snap("disk@b"));
  write(*disk, 8, 3);
  write(*disk, 100, 3);
  EXPECT_EQ(diff("disk@a", "a"), List{});
  EXPECT_EQ(diff("disk@b", "a"), (List{{1, 1, kData}, {5, 2, kZero}}));
  EXPECT_EQ(diff("disk", "b"), (List{{8, 1, kData}, {100, 1, kData}}));
  EXPECT_EQ(diff("disk", "a"), (List{{1, 1, kData}, {5, 2, kZero}, {8, 1, kData}, {100, 1, kData}}));
  // Backwards: what is changed back, with what the older one has there.
  EXPECT_EQ(diff("disk@a", "b"), (List{{1, 1, kData}, {5, 2, kData}}));
}

TEST_F(DiffTest, MergingLayersChangesNothingInWhatIsTold) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 10);
  ASSERT_TRUE(snap("disk@before"));
  write(*disk, 1, 1);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 2, 2);
  ASSERT_TRUE(snap("disk@between"));
  write(*disk, 4, 2);
  ASSERT_TRUE(run(disk->trim(2 * kBlock, kBlock, {})));
  ASSERT_TRUE(snap("disk@b"));
  const List expected{{2, 1, kZero}, {4, 1, kData}};
  EXPECT_EQ(diff("disk@b", "a"), expected);
  ASSERT_TRUE(remove("disk@between"));
  ASSERT_TRUE(remove("disk@before"));
  run(store_->wait_for_reclaim());
  EXPECT_EQ(diff("disk@b", "a"), expected);
}

TEST_F(DiffTest, AfterARollbackTheChangesOfBothSidesAreTold) {
  create("disk");
  {
    const auto disk = open_disk("disk");
    write(*disk, 0, 1, 4);
  }
  ASSERT_TRUE(snap("disk@a"));
  {
    const auto disk = open_disk("disk");
    write(*disk, 1, 2);
    write(*disk, 7, 2);
  }
  ASSERT_TRUE(snap("disk@b"));
  settle();
  ASSERT_TRUE(run(store_->rollback("disk@a", false)));
  {
    const auto disk = open_disk("disk");
    write(*disk, 2, 3);
  }
  EXPECT_EQ(diff("disk", "b"), (List{{1, 2, kData}, {7, 1, kZero}}));
  EXPECT_EQ(diff("disk@b", "a"), (List{{1, 1, kData}, {7, 1, kData}}));
}

TEST_F(DiffTest, WhatLiesBehindTheEndIsNotTold) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 100);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 9, 2, 10);
  ASSERT_TRUE(run(store_->resize("disk", 10 * kBlock + 512, true)));
  const DiffPage shrunk = page("disk", "a");
  EXPECT_EQ(shrunk.from_size_bytes, 16U << 20);
  EXPECT_EQ(shrunk.to_size_bytes, 10 * kBlock + 512);
  ASSERT_EQ(shrunk.ranges.size(), 1U);
  EXPECT_EQ(shrunk.ranges[0], (DiffRange{9 * kBlock, kBlock + 512, kData}));
  ASSERT_TRUE(run(store_->resize("disk", 16 << 20, false)));
  EXPECT_EQ(diff("disk", "a"), (List{{9, 2, kData}, {11, 89, kZero}}));
}

TEST_F(DiffTest, ManyRangesComeInPages) {
  create("disk", 1 << 30);
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 4000);
  ASSERT_TRUE(snap("disk@a"));
  const uint64_t count = limits::kMaxDiffRanges + 1000;
  for (uint64_t i = 0; i < count; ++i) write(*disk, 2 * i, 2);
  const DiffPage first = page("disk", "a");
  EXPECT_EQ(first.ranges.size(), limits::kMaxDiffRanges);
  EXPECT_LT(first.end_bytes, first.to_size_bytes);
  const DiffPage second = page("disk", "a", first.end_bytes);
  EXPECT_EQ(second.ranges.size(), count - limits::kMaxDiffRanges);
  EXPECT_EQ(second.end_bytes, second.to_size_bytes);
  EXPECT_EQ(second.ranges.front().offset_bytes, 2 * limits::kMaxDiffRanges * kBlock);
  EXPECT_TRUE(page("disk", "a", 1 << 30).ranges.empty());
}

TEST_F(DiffTest, ARangeOverManyExtentsIsOneAlthoughSeveralTransactionsReadIt) {
  create("disk", 1ULL << 40);
  const auto disk = open_disk("disk");
  ASSERT_TRUE(snap("disk@a"));
  const uint64_t extents = limits::kDiffBitmapsPerPage + 10;
  for (uint64_t i = 0; i < extents; ++i) {
    const auto zeroed =
        run(disk->write_zeroes(i * limits::kBlocksPerExtent * kBlock, limits::kBlocksPerExtent * kBlock,
                               {.fua = false, .no_hole = true, .fast_only = false}));
    ASSERT_TRUE(zeroed);
  }
  EXPECT_EQ(diff("disk", "a"), (List{{0, extents * limits::kBlocksPerExtent, kZero}}));
}

TEST_F(DiffTest, ManyExtentsThatOnlySharedLayersDecideComeInPages) {
  create("disk", 4ULL << 30);
  const uint64_t extents = limits::kDiffLookUpsPerPage + 10;
  {
    const auto disk = open_disk("disk");
    for (uint64_t i = 0; i < extents; ++i) write(*disk, i * limits::kBlocksPerExtent, 1);
    ASSERT_TRUE(snap("disk@a"));
    for (uint64_t i = 0; i < extents; ++i) write(*disk, i * limits::kBlocksPerExtent, 2, 2);
    ASSERT_TRUE(snap("disk@b"));
  }
  const auto backwards = diff("disk@a", "b");
  ASSERT_EQ(backwards.size(), 2 * extents);
  EXPECT_EQ(backwards[0], (Blocks{0, 1, kData}));
  EXPECT_EQ(backwards[1], (Blocks{1, 1, kZero}));
  EXPECT_EQ(backwards.back(), (Blocks{(extents - 1) * limits::kBlocksPerExtent + 1, 1, kZero}));
}

using Flagged = std::vector<block::FlaggedExtent>;

TEST_F(DiffTest, ClientsAreToldWhatHasChangedSinceASnapshot) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 0, 1, 10);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 3, 2, 2);
  ASSERT_TRUE(run(disk->trim(5 * kBlock, kBlock, {})));
  const block::StatusTopic since_a{.kind = block::StatusTopic::Kind::changed_since, .snapshot = "a"};
  const auto status = [&](uint64_t offset_bytes, uint64_t length_bytes, uint32_t limit) {
    return run(disk->topic_status(since_a, offset_bytes, length_bytes, limit)).value();
  };
  EXPECT_EQ(status(0, 8 * kBlock, 10), (Flagged{{3 * kBlock, 0}, {3 * kBlock, 1}, {2 * kBlock, 0}}));
  EXPECT_EQ(status(4 * kBlock + 7, kBlock, 10), (Flagged{{kBlock, 1}}));
  EXPECT_EQ(status(0, 8 * kBlock, 1), (Flagged{{3 * kBlock, 0}}));
  const block::StatusTopic since_none{.kind = block::StatusTopic::Kind::changed_since, .snapshot = "none"};
  EXPECT_EQ(run(disk->topic_status(since_none, 0, kBlock, 10)).error().code, Errc::not_found);
  ASSERT_TRUE(snap("disk@b"));
  const auto snapshot = open_disk("disk@b");
  EXPECT_EQ(run(snapshot->topic_status(since_a, 0, 8 * kBlock, 10)).value(), status(0, 8 * kBlock, 10));
  EXPECT_EQ(run(store_->describe(loop_, "disk")).value().snapshots, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(run(store_->describe(loop_, "disk@b")).value().snapshots, std::vector<std::string>{"a"});
}

TEST_F(DiffTest, ClientsAreToldWhichLayersSayWhatIsThere) {
  create("disk");
  const auto disk = open_disk("disk");
  write(*disk, 1, 1, 3);
  ASSERT_TRUE(snap("disk@a"));
  write(*disk, 2, 2);
  ASSERT_TRUE(run(disk->trim(3 * kBlock, kBlock, {})));
  const block::StatusTopic depth{.kind = block::StatusTopic::Kind::depth, .snapshot = ""};
  EXPECT_EQ(run(disk->topic_status(depth, 0, 6 * kBlock, 10)).value(),
            (Flagged{{kBlock, 0}, {kBlock, 2}, {2 * kBlock, 1}, {2 * kBlock, 0}}));
  EXPECT_EQ(run(open_disk("disk@a")->topic_status(depth, 0, 6 * kBlock, 10)).value(),
            (Flagged{{kBlock, 0}, {3 * kBlock, 1}, {2 * kBlock, 0}}));
  ASSERT_TRUE(snap("disk@b"));
  EXPECT_EQ(run(disk->topic_status(depth, 2 * kBlock, kBlock, 10)).value(), (Flagged{{kBlock, 2}}));
}

TEST_F(DiffTest, PointsThatAreNotThereAreNotFound) {
  create("disk");
  EXPECT_EQ(run(store_->diff("none", std::nullopt, 0, nullptr)).error().code, Errc::not_found);
  EXPECT_EQ(run(store_->diff("disk@none", std::nullopt, 0, nullptr)).error().code, Errc::not_found);
  const auto missing = run(store_->diff("disk", "none", 0, nullptr));
  EXPECT_EQ(missing.error().code, Errc::not_found);
  EXPECT_NE(missing.error().what.find("none"), std::string::npos);
}

}  // namespace
}  // namespace fdbnbd::volume
