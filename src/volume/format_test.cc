#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <numeric>
#include <sstream>

#include "async/sim_loop.h"
#include "kv/memory/memory_engine.h"
#include "volume/block_codec.h"
#include "volume/keys.h"
#include "volume/presence.h"
#include "volume/records.h"
#include "volume/store.h"

// The stored format: what version 1 wrote must be read for ever (docs/format.md). The files under
// tests/golden are never rewritten; a new version of the format adds files.

namespace fdbnbd::volume {
namespace {

std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += kDigits[static_cast<unsigned char>(c) >> 4];
    hex += kDigits[static_cast<unsigned char>(c) & 15];
  }
  return hex;
}

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  return bytes;
}

std::string golden_path(const std::string& name) {
  return std::string(FDBNBD_GOLDEN_DIR) + "/" + name;
}

// Compares with the file, line by line.
void expect_golden(const std::string& name, const std::string& contents) {
  if (std::getenv("FDB_NBD_WRITE_GOLDEN") != nullptr) std::ofstream(golden_path(name)) << contents;
  std::ifstream file(golden_path(name));
  ASSERT_TRUE(file) << "no " << golden_path(name);
  std::stringstream stored;
  stored << file.rdbuf();
  EXPECT_EQ(stored.str(), contents) << "the stored format has changed";
}

const WallTime kThen{std::chrono::seconds(1'700'000'000)};

TEST(Format, KeysAreWhatVersion1Wrote) {
  const KeySpace keys("pre");
  std::string lines;
  for (const std::string& key :
       {keys.store_header(), keys.name("disk"), keys.volume(VolumeId{0x0102}), keys.fence(VolumeId{0x0102}),
        keys.layer(LayerId{0x0a0b}), keys.usage(LayerId{0x0a0b}), keys.job(JobId{7}),
        keys.bitmap(LayerId{0x0a0b}, 0x010203040506),
        keys.block(LayerId{0x0a0b}, Striping{16}, 0x01020304050607),
        keys.block(LayerId{1}, Striping{1}, 1023), keys.block(LayerId{1}, Striping{16}, 1024)}) {
    lines += to_hex(key) + "\n";
  }
  expect_golden("keys_v1.txt", lines);
}

TEST(Format, RecordsAreWhatVersion1Wrote) {
  StoreHeader header;
  std::iota(header.uuid.begin(), header.uuid.end(), uint8_t{1});
  header.created = kThen;
  VolumeRecord volume;
  volume.id = VolumeId{0x0102};
  volume.size_bytes = 1 << 30;
  volume.block_shift = 14;
  volume.compression = Compression::zstd;
  volume.striping = Striping{16};
  volume.created = kThen;
  FenceRecord fence;
  fence.epoch = 3;
  fence.barrier = 2;
  std::iota(fence.owner.begin(), fence.owner.end(), uint8_t{100});
  fence.top_layer = LayerId{0x0a0b};
  LayerRecord layer;
  layer.parent = LayerId{9};
  layer.state = LayerState::deleting;
  layer.origin = VolumeId{0x0102};
  layer.block_shift = 14;
  layer.striping = Striping{16};
  std::string lines;
  for (const std::string& value :
       {header.encode(), NameRecord{VolumeId{0x0102}}.encode(), volume.encode(), fence.encode(),
        layer.encode(), UsageRecord{77}.encode(), JobRecord{JobKind::reclaim_layer, LayerId{5}}.encode()}) {
    lines += to_hex(value) + "\n";
  }
  expect_golden("records_v1.txt", lines);
}

TEST(Format, OwnershipIsWhatVersion1Wrote) {
  const KeySpace keys("pre");
  HeartbeatRecord heartbeat;
  std::iota(heartbeat.owner.begin(), heartbeat.owner.end(), uint8_t{100});
  heartbeat.counter = 0x0102030405060708;
  heartbeat.lease_duration_ms = 5000;
  heartbeat.process = {.host = 0x1112131415161718, .pid = 17, .started = 0x2122232425262728};
  heartbeat.holder = "host db1, pid 17";
  std::string lines;
  for (const std::string& bytes :
       {keys.heartbeat(VolumeId{0x0102}), keys.handover(VolumeId{0x0102}), heartbeat.encode(),
        HandoverRecord{heartbeat.owner, "host db2, pid 18"}.encode()}) {
    lines += to_hex(bytes) + "\n";
  }
  expect_golden("ownership_v1.txt", lines);
}

TEST(Format, KeysAndRecordsOfSnapshotsAreWhatVersion1Wrote) {
  const KeySpace keys("pre");
  SnapshotRecord snapshot;
  snapshot.layer = LayerId{0x0a0b};
  snapshot.size_bytes = 1 << 30;
  snapshot.created = kThen;
  snapshot.sequence = 12;
  LayerRecord layer;
  layer.state = LayerState::unnamed;
  std::string lines;
  for (const std::string& bytes :
       {keys.snapshot(VolumeId{0x0102}, "monday"), keys.child(LayerId{0x0a0b}, LayerId{0x0c0d}),
        snapshot.encode(), ChildRecord{}.encode(), layer.encode(),
        JobRecord{JobKind::merge_layer, LayerId{5}}.encode()}) {
    lines += to_hex(bytes) + "\n";
  }
  expect_golden("snapshots_v1.txt", lines);
}

TEST(Format, WhatVersion2OfTheVolumeRecordAddsIsWhatItWrote) {
  const KeySpace keys("pre");
  VolumeRecord volume;
  volume.id = VolumeId{0x0102};
  volume.size_bytes = 1 << 30;
  volume.block_shift = 14;
  volume.compression = Compression::zstd;
  volume.striping = Striping{16};
  volume.created = kThen;
  volume.is_trashed = true;
  volume.quota_bytes = 1 << 20;
  volume.labels = {{"owner", "db"}, {"tier", ""}};
  const TrashRecord trash{.name = "disk", .trashed = kThen, .expires = kThen + std::chrono::hours(24)};
  const GroupRecord group{.members = {VolumeId{0x0102}, VolumeId{0x0304}}};
  std::string lines;
  for (const std::string& bytes :
       {keys.trash(VolumeId{0x0102}), keys.group("db"), volume.encode(), trash.encode(), group.encode()}) {
    lines += to_hex(bytes) + "\n";
  }
  expect_golden("volume_records_v2.txt", lines);
  const auto decoded = VolumeRecord::decode(volume.encode()).value();
  EXPECT_TRUE(decoded.is_trashed);
  EXPECT_EQ(decoded.quota_bytes, volume.quota_bytes);
  EXPECT_EQ(decoded.labels, volume.labels);
  EXPECT_EQ(GroupRecord::decode(group.encode()).value().members, group.members);
  EXPECT_EQ(TrashRecord::decode(trash.encode()).value().expires, trash.expires);
}

TEST(Format, ReceiptsAreWhatVersion1Wrote) {
  const ReceiptRecord receipt{.attempt = 3, .created = kThen};
  const std::string lines =
      to_hex(KeySpace("pre").receipt(ReceiptId{7})) + "\n" + to_hex(receipt.encode()) + "\n";
  expect_golden("receipts_v1.txt", lines);
  EXPECT_EQ(ReceiptRecord::decode(receipt.encode()).value().attempt, 3U);
}

TEST(Format, WhatVersion3AddsToTheRecordsOfVolumesAndSnapshotsIsWhatItWrote) {
  VolumeRecord volume;
  volume.id = VolumeId{0x0102};
  volume.size_bytes = 1 << 30;
  volume.block_shift = 14;
  volume.compression = Compression::zstd;
  volume.striping = Striping{16};
  volume.created = kThen;
  volume.labels = {{"owner", "db"}};
  volume.stale_end_bytes = (1 << 30) + 512;
  SnapshotRecord snapshot;
  snapshot.layer = LayerId{0x0a0b};
  snapshot.size_bytes = 1 << 30;
  snapshot.created = kThen;
  snapshot.sequence = 12;
  snapshot.stale_end_bytes = uint64_t{1} << 40;
  expect_golden("stale_ends_v3.txt", to_hex(volume.encode()) + "\n" + to_hex(snapshot.encode()) + "\n");
  const auto decoded = VolumeRecord::decode(volume.encode()).value();
  EXPECT_EQ(decoded.stale_end_bytes, volume.stale_end_bytes);
  EXPECT_EQ(decoded.labels, volume.labels);
  const auto decoded_snapshot = SnapshotRecord::decode(snapshot.encode()).value();
  EXPECT_EQ(decoded_snapshot.stale_end_bytes, snapshot.stale_end_bytes);
  EXPECT_EQ(decoded_snapshot.id(), snapshot.layer.value);
  // It lies behind the end.
  volume.stale_end_bytes = volume.size_bytes;
  EXPECT_EQ(VolumeRecord::decode(volume.encode()).error().code, Errc::corruption);
  snapshot.stale_end_bytes = 512;
  EXPECT_EQ(SnapshotRecord::decode(snapshot.encode()).error().code, Errc::corruption);
}

template <typename Record>
void expect_every_damage_is_found(const std::string& value) {
  ASSERT_TRUE(Record::decode(value));
  for (size_t i = 0; i < value.size(); ++i) {
    std::string damaged = value;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x40);
    EXPECT_FALSE(Record::decode(damaged)) << "byte " << i;
    EXPECT_FALSE(Record::decode(value.substr(0, i))) << "cut at " << i;
  }
  EXPECT_FALSE(Record::decode(value + '\0'));
}

TEST(Format, ADamagedRecordIsNeverTaken) {
  VolumeRecord volume;
  volume.size_bytes = 4096;
  expect_every_damage_is_found<StoreHeader>(StoreHeader{}.encode());
  expect_every_damage_is_found<NameRecord>(NameRecord{}.encode());
  expect_every_damage_is_found<VolumeRecord>(volume.encode());
  volume.labels = {{"key", "value"}};
  expect_every_damage_is_found<VolumeRecord>(volume.encode());
  volume.stale_end_bytes = 8192;
  expect_every_damage_is_found<VolumeRecord>(volume.encode());
  expect_every_damage_is_found<TrashRecord>(
      TrashRecord{.name = "disk", .trashed = {}, .expires = {}}.encode());
  expect_every_damage_is_found<GroupRecord>(GroupRecord{.members = {VolumeId{1}}}.encode());
  expect_every_damage_is_found<FenceRecord>(FenceRecord{}.encode());
  expect_every_damage_is_found<HeartbeatRecord>(
      HeartbeatRecord{.owner = {}, .counter = 0, .lease_duration_ms = 0, .process = {}, .holder = "me"}
          .encode());
  expect_every_damage_is_found<HandoverRecord>(HandoverRecord{{}, "me"}.encode());
  expect_every_damage_is_found<LayerRecord>(LayerRecord{}.encode());
  expect_every_damage_is_found<UsageRecord>(UsageRecord{}.encode());
  expect_every_damage_is_found<JobRecord>(JobRecord{}.encode());
  expect_every_damage_is_found<SnapshotRecord>(SnapshotRecord{}.encode());
  expect_every_damage_is_found<ChildRecord>(ChildRecord{}.encode());
}

TEST(Format, KeysSortAsTheirNumbersDo) {
  const KeySpace keys("");
  const Striping one{1};
  EXPECT_LT(keys.block(LayerId{1}, one, 255), keys.block(LayerId{1}, one, 256));
  EXPECT_LT(keys.bitmap(LayerId{1}, 255), keys.bitmap(LayerId{1}, 256));
  EXPECT_LT(keys.layer_end('D', LayerId{1}), keys.block(LayerId{2}, one, 0));
  EXPECT_GT(keys.layer_end('D', LayerId{1}), keys.block(LayerId{1}, Striping{256}, (uint64_t{1} << 51) - 1));
  EXPECT_EQ(KeySpace::block_of(keys.block(LayerId{1}, one, (uint64_t{1} << 51) - 1)),
            (uint64_t{1} << 51) - 1);
  EXPECT_EQ(keys.extent_of_bitmap(keys.bitmap(LayerId{1}, 1 << 20)), 1U << 20);
  EXPECT_EQ(keys.id_of(keys.volume(VolumeId{42})), 42U);
  EXPECT_EQ(keys.id_of("I123"), std::nullopt);
  EXPECT_EQ(keys.snapshot_of(keys.snapshot(VolumeId{42}, "a"))->name, "a");
  EXPECT_EQ(keys.snapshot_of(keys.snapshot(VolumeId{42}, "a"))->volume, VolumeId{42});
  EXPECT_FALSE(keys.snapshot_of(keys.snapshots_begin(VolumeId{42})));
  EXPECT_EQ(keys.child_of(keys.child(LayerId{1}, LayerId{2}))->child, LayerId{2});
  EXPECT_FALSE(keys.child_of(keys.children_begin(LayerId{1})));
  EXPECT_LT(keys.snapshot(VolumeId{42}, std::string(255, '\xff')), keys.snapshots_end(VolumeId{42}));
}

std::vector<std::byte> some_block(size_t size, uint64_t seed, bool compressible) {
  Random random(seed);
  std::vector<std::byte> block(size);
  for (size_t i = 0; i < size; ++i) block[i] = static_cast<std::byte>(compressible ? i / 64 : random.next());
  return block;
}

TEST(BlockCodec, EveryCodecAndSizeRoundTrips) {
  for (const size_t size : {4096, 8192, 65536}) {
    for (const auto compression : {Compression::none, Compression::lz4, Compression::zstd}) {
      for (const bool compressible : {false, true}) {
        const auto block = some_block(size, size, compressible);
        std::string value = "before";
        append_block_value(value, block, 77, compression);
        const std::string_view stored = std::string_view(value).substr(6);
        EXPECT_LE(stored.size(), size + kBlockTrailerBytes);
        if (compressible && compression != Compression::none) {
          EXPECT_LT(stored.size(), size / 2);
        }
        std::vector<std::byte> back(size);
        ASSERT_TRUE(decode_block_value(stored, 77, back));
        EXPECT_EQ(back, block);
      }
    }
  }
}

TEST(BlockCodec, AnyFlippedBitIsCorruption) {
  for (const auto compression : {Compression::none, Compression::lz4, Compression::zstd}) {
    const auto block = some_block(4096, 1, true);
    std::string value;
    append_block_value(value, block, 5, compression);
    std::vector<std::byte> back(4096);
    for (size_t i = 0; i < value.size(); ++i) {
      std::string damaged = value;
      damaged[i] = static_cast<char>(damaged[i] ^ (1 << (i % 8)));
      const auto decoded = decode_block_value(damaged, 5, back);
      ASSERT_FALSE(decoded) << i;
      EXPECT_EQ(decoded.error().code, Errc::corruption);
    }
    for (size_t length = 0; length < value.size(); length += 13) {
      EXPECT_FALSE(decode_block_value(std::string_view(value).substr(0, length), 5, back));
    }
  }
}

TEST(BlockCodec, AValueUnderAnotherBlocksKeyIsCorruption) {
  const auto block = some_block(4096, 1, false);
  std::string value;
  append_block_value(value, block, 5, Compression::none);
  std::vector<std::byte> back(4096);
  EXPECT_TRUE(decode_block_value(value, 5, back));
  EXPECT_FALSE(decode_block_value(value, 6, back));
}

TEST(Presence, RunsUsageAndOperandsAgreeWithSingleBlocks) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    ExtentBits before;
    ExtentBits after;
    for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i) {
      before.set_state(i, static_cast<BlockState>(random.below(4)));
      after.set_state(i, random.one_in(3) ? static_cast<BlockState>(random.below(4)) : before.state(i));
    }
    uint32_t data_count = 0;
    for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i)
      data_count += before.state(i) == BlockState::data ? 1 : 0;
    EXPECT_EQ(before.data_count(), data_count);
    for (uint32_t i = 0; i < ExtentBits::kBlocks;) {
      const uint32_t length = before.run_length(i, ExtentBits::kBlocks - i);
      ASSERT_GT(length, 0U);
      for (uint32_t k = 0; k < length; ++k) ASSERT_EQ(before.state(i + k), before.state(i));
      if (i + length < ExtentBits::kBlocks) {
        ASSERT_NE(before.state(i + length), before.state(i));
      }
      i += length;
    }
    // Applying the operands to the stored bytes gives the new bytes.
    std::string stored = before.encode();
    const std::string or_operand = ExtentBits::or_operand(before, after);
    const std::string and_operand = ExtentBits::and_operand(before, after);
    for (size_t i = 0; i < or_operand.size(); ++i) stored[i] = static_cast<char>(stored[i] | or_operand[i]);
    for (size_t i = 0; i < and_operand.size(); ++i) stored[i] = static_cast<char>(stored[i] & and_operand[i]);
    EXPECT_EQ(stored, after.encode());
    EXPECT_EQ(ExtentBits::decode(stored).value(), after);
  }
  EXPECT_FALSE(ExtentBits::decode(std::string(255, '\0')));
}

TEST(Names, TheRulesOfNames) {
  EXPECT_TRUE(check_volume_name("disk"));
  EXPECT_TRUE(check_volume_name("Fläche 7 \xf0\x9f\x92\xbe"));
  EXPECT_TRUE(check_volume_name(std::string(255, 'a')));
  for (const std::string& name :
       {std::string(), std::string(256, 'a'), std::string("a/b"), std::string("a@b"), std::string("a\nb"),
        std::string("a\0b", 3), std::string("\x7f"), std::string("\xff"), std::string("\xc0\x80"),
        std::string("\xed\xa0\x80"), std::string("\xc2\x85"), std::string("\xe2\x82")}) {
    EXPECT_EQ(check_volume_name(name).error().code, Errc::invalid) << to_hex(name);
  }
}

// A whole store as version 1 left it: two volumes, one of them with data in three extents.
Task<Result<std::vector<kv::KeyValue>>> all_rows(kv::Engine& engine, Executor& executor) {
  auto transaction = engine.begin(executor);
  auto rows =
      co_await transaction->get_range({std::string_view("\0", 1), "\xff"}, {}, kv::Isolation::snapshot);
  if (!rows) co_return propagate(rows);
  co_return rows->rows;
}

Task<void> write_golden_store(kv::Engine& engine, Executor& executor, std::string& lines) {
  Store::Options options;
  options.volume_executors = {&executor};
  options.seed = 42;
  auto store = (co_await open_store(engine, executor, options)).value();
  (void)(co_await store->create(
             "golden", {.size_bytes = 64 << 20, .block_bytes = 8192, .compression = Compression::none}))
      .value();
  (void)(co_await store->create("empty",
                                {.size_bytes = 512, .block_bytes = 4096, .compression = Compression::zstd}))
      .value();
  auto disk = (co_await store->open(executor, "golden")).value();
  const auto block = some_block(20000, 9, true);
  EXPECT_TRUE((co_await disk->write(1000, block, {})).has_value());
  EXPECT_TRUE((co_await disk->write((8 << 20) - 100, block, {})).has_value());
  EXPECT_TRUE(
      (co_await disk->write_zeroes(32 << 20, 16384, {.fua = false, .no_hole = true, .fast_only = false}))
          .has_value());
  disk.reset();
  co_await store->close();
  const auto rows = (co_await all_rows(engine, executor)).value();
  for (const kv::KeyValue& row : rows) {
    lines += to_hex(row.key) + " " + to_hex(row.value) + "\n";
  }
}

Task<void> read_golden_store(kv::Engine& engine, Executor& executor) {
  Store::Options options;
  options.volume_executors = {&executor};
  auto store = (co_await open_store(engine, executor, options)).value();
  const auto volumes = (co_await store->list_volumes()).value();
  EXPECT_EQ(volumes.size(), 2U);
  auto disk = (co_await store->open(executor, "golden")).value();
  EXPECT_EQ(disk->info().size_bytes, 64U << 20);
  const auto block = some_block(20000, 9, true);
  for (const uint64_t offset : {uint64_t{1000}, uint64_t{(8 << 20) - 100}}) {
    std::vector<std::byte> back(block.size());
    const auto segments = (co_await disk->read(offset, back)).value();
    EXPECT_EQ(segments.size(), 1U);
    EXPECT_EQ(back, block);
  }
  const auto status = (co_await disk->block_status(32 << 20, 32768, 10)).value();
  EXPECT_EQ(status, (std::vector<block::StatusExtent>{{16384, false, true}, {16384, true, true}}));
  EXPECT_EQ((co_await store->check(std::nullopt, nullptr)).value().findings_count, 0U);
  disk.reset();
  co_await store->close();
}

Task<void> put_rows(kv::Engine& engine, Executor& executor, std::vector<kv::KeyValue> rows) {
  auto transaction = engine.begin(executor);
  for (const kv::KeyValue& row : rows) transaction->set(row.key, row.value);
  (void)(co_await transaction->commit()).value();
}

TEST(Format, AStoreOfVersion1IsRead) {
  if (std::getenv("FDB_NBD_WRITE_GOLDEN") != nullptr) {
    SimLoop loop(1);
    auto engine = kv::open_memory_engine().value();
    std::string lines;
    loop.run(write_golden_store(*engine, loop, lines));
    std::ofstream(golden_path("store_v1.txt")) << lines;
  }
  std::ifstream file(golden_path("store_v1.txt"));
  ASSERT_TRUE(file);
  std::vector<kv::KeyValue> rows;
  for (std::string key, value; file >> key >> value;) rows.push_back({from_hex(key), from_hex(value)});
  ASSERT_GT(rows.size(), 10U);
  SimLoop loop(1);
  auto engine = kv::open_memory_engine().value();
  loop.run(put_rows(*engine, loop, rows));
  loop.run(read_golden_store(*engine, loop));
}

}  // namespace
}  // namespace fdbnbd::volume
