#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "cli/exit_status.h"
#include "cli/load.h"
#include "cli/output.h"
#include "cli/progress.h"
#include "cli/qemu_image.h"
#include "cli/serve_options.h"
#include "cli/transfer.h"
#include "net/fd.h"

namespace fdbnbd::cli {
namespace {

using ::testing::ElementsAre;

TEST(ExitStatus, EveryErrorHasTheDocumentedStatus) {
  const std::map<Errc, int> expected = {
      {Errc::conflict, 5},     {Errc::unavailable, 7}, {Errc::unknown_result, 1},
      {Errc::invalid, 2},      {Errc::past_end, 1},    {Errc::not_supported, 1},
      {Errc::too_large, 1},    {Errc::read_only, 1},   {Errc::no_space, 8},
      {Errc::not_found, 3},    {Errc::exists, 4},      {Errc::busy, 5},
      {Errc::permission, 1},   {Errc::differs, 10},    {Errc::io, 1},
      {Errc::protocol, 1},     {Errc::peer_gone, 7},   {Errc::timeout, 7},
      {Errc::cancelled, 1},    {Errc::fenced, 6},      {Errc::corruption, 9},
      {Errc::newer_format, 1},
  };
  ASSERT_EQ(expected.size(), static_cast<size_t>(Errc::newer_format) + 1);
  for (const auto& [code, status] : expected) {
    EXPECT_EQ(static_cast<int>(exit_status(code)), status) << errc_name(code);
  }
}

// A file of 1 MiB of data and 7 MiB of nothing, without a name.
class SparseFile {
 public:
  SparseFile() {
    std::string path = testing::TempDir() + "sparse-XXXXXX";
    fd_ = net::OwnedFd(::mkstemp(path.data()));
    ::unlink(path.c_str());
    const std::vector<std::byte> data(1 << 20, std::byte{7});
    EXPECT_EQ(::write(fd_.get(), data.data(), data.size()), static_cast<ssize_t>(data.size()));
    truncate(8 << 20);
  }
  void truncate(off_t size_bytes) { EXPECT_EQ(::ftruncate(fd_.get(), size_bytes), 0); }
  int fd() const { return fd_.get(); }

 private:
  net::OwnedFd fd_;
};

TEST(FileSource, TheTailOfASparseFileIsAHole) {
  const SparseFile file;
  const auto source = file_source(file.fd(), "a file", 8 << 20);
  std::vector<std::byte> memory(1 << 20);
  uint64_t data_bytes = 0;
  uint64_t bytes_count = 0;
  while (true) {
    const auto stretch = source->next(memory);
    ASSERT_TRUE(stretch);
    if (stretch->length_bytes == 0) break;
    bytes_count += stretch->length_bytes;
    if (!stretch->is_hole) data_bytes += stretch->length_bytes;
  }
  EXPECT_EQ(bytes_count, 8U << 20);
  EXPECT_GE(data_bytes, 1U << 20);
}

TEST(FileSource, AFileThatBecomesShorterHasNoHoleInsteadOfItsTail) {
  for (const off_t left_bytes : {off_t{1} << 20, off_t{4} << 20, off_t{0}}) {
    SparseFile file;
    const auto source = file_source(file.fd(), "a file", 8 << 20);
    std::vector<std::byte> memory(1 << 20);
    ASSERT_EQ(source->next(memory).value().length_bytes, 1U << 20);
    file.truncate(left_bytes);
    Result<ByteSource::Stretch> stretch = source->next(memory);
    while (stretch && stretch->length_bytes > 0) stretch = source->next(memory);
    ASSERT_FALSE(stretch) << left_bytes;
    EXPECT_EQ(stretch.error().code, Errc::io);
  }
}

config::StoreUrl rocks_at(std::string path) {
  return {.kind = config::StoreUrl::Kind::rocksdb, .path = std::move(path), .prefix = {}};
}

TEST(ServeOptions, DefaultsAreTheDocumentedOnes) {
  const auto options = server_options({}, {}, rocks_at("/srv/s"));
  ASSERT_TRUE(options.has_value()) << options.error().what;
  ASSERT_EQ(options->listen.size(), 1U);
  EXPECT_EQ(net::to_string(options->listen[0]), "tcp://127.0.0.1:10809");
  EXPECT_EQ(options->control_path, "/srv/s/control.sock");
  EXPECT_FALSE(options->allow_remote);
  EXPECT_FALSE(options->read_only);
  EXPECT_TRUE(options->use_activation_sockets);
  EXPECT_TRUE(options->volumes.empty());
  EXPECT_GE(options->io_threads_count, 1U);
  EXPECT_LE(options->io_threads_count, 4U);
}

TEST(ServeOptions, AStoreInMemoryHasNoControlSocketUnlessNamed) {
  EXPECT_EQ(server_options({}, {}, config::StoreUrl{})->control_path, "");
  EXPECT_EQ(server_options({.control = "/run/c"}, {}, config::StoreUrl{})->control_path, "/run/c");
}

TEST(ServeOptions, AFlagBeatsTheFile) {
  config::Config file;
  file.listen = std::vector{*net::parse_endpoint("unix:/run/file.sock")};
  file.control = "/run/file-control";
  file.io_threads = 2;
  file.connections = 10;
  file.in_flight_bytes = 1ULL << 30;
  file.handshake_timeout_s = 3;
  file.store_bytes = 1 << 20;
  file.log_level = log::Level::error;
  file.volumes = std::vector<config::VolumeSpec>{{.name = "f", .size_bytes = 512}};

  const auto by_file = server_options({}, file, rocks_at("/s"));
  ASSERT_TRUE(by_file.has_value()) << by_file.error().what;
  EXPECT_EQ(net::to_string(by_file->listen.at(0)), "unix:/run/file.sock");
  EXPECT_EQ(by_file->control_path, "/run/file-control");
  EXPECT_EQ(by_file->io_threads_count, 2U);
  EXPECT_EQ(by_file->limits.connections_count, 10U);
  EXPECT_EQ(by_file->limits.process_bytes, 1ULL << 30);
  EXPECT_EQ(by_file->limits.handshake_timeout, std::chrono::seconds(3));
  EXPECT_EQ(by_file->store_memory_bytes, 1U << 20);
  EXPECT_EQ(log_level({}, file), log::Level::error);

  const ServeFlags flags{.listen = {"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"},
                         .volumes = {"g=1K"},
                         .control = "/run/flag-control",
                         .log_level = "debug",
                         .io_threads = 3,
                         .connections = 11,
                         .in_flight = "2G",
                         .handshake_timeout_s = 4,
                         .store_memory = "2M"};
  const auto by_flag = server_options(flags, file, rocks_at("/s"));
  ASSERT_TRUE(by_flag.has_value()) << by_flag.error().what;
  EXPECT_EQ(by_flag->listen.size(), 2U);
  EXPECT_EQ(by_flag->control_path, "/run/flag-control");
  EXPECT_EQ(by_flag->io_threads_count, 3U);
  EXPECT_EQ(by_flag->limits.connections_count, 11U);
  EXPECT_EQ(by_flag->limits.process_bytes, 2ULL << 30);
  EXPECT_EQ(by_flag->limits.handshake_timeout, std::chrono::seconds(4));
  EXPECT_EQ(by_flag->store_memory_bytes, 2U << 20);
  EXPECT_EQ(log_level(flags, file), log::Level::debug);
  // Volumes add up: each is only made where it is missing.
  EXPECT_THAT(by_flag->volumes, ElementsAre(config::VolumeSpec{.name = "f", .size_bytes = 512},
                                            config::VolumeSpec{.name = "g", .size_bytes = 1024}));
}

TEST(ServeOptions, StdioListensNowhereElseUnlessToldTo) {
  config::Config file;
  file.listen = std::vector{*net::parse_endpoint("unix:/run/file.sock")};
  EXPECT_TRUE(server_options({.stdio = true}, file, rocks_at("/s"))->listen.empty());
  EXPECT_FALSE(server_options({.stdio = true}, file, rocks_at("/s"))->use_activation_sockets);
  EXPECT_EQ(server_options({.listen = {"unix:/a"}, .stdio = true}, file, rocks_at("/s"))->listen.size(), 1U);
}

TEST(ServeOptions, WhatMakesNoSenseIsRefused) {
  const auto code = [](const ServeFlags& flags) {
    const auto options = server_options(flags, {}, rocks_at("/s"));
    EXPECT_FALSE(options.has_value());
    return options ? Errc::io : options.error().code;
  };
  EXPECT_EQ(code({.listen = {"localhost"}}), Errc::invalid);
  EXPECT_EQ(code({.volumes = {"a"}}), Errc::invalid);
  EXPECT_EQ(code({.first_volume = "a="}), Errc::invalid);
  EXPECT_EQ(code({.connection_in_flight = "1M"}), Errc::invalid);
  EXPECT_EQ(code({.in_flight = "64M"}), Errc::invalid);
  EXPECT_EQ(code({.store_memory = "much"}), Errc::invalid);
  EXPECT_EQ(code({.tls = "on"}), Errc::not_supported);
  EXPECT_EQ(code({.tls = "require"}), Errc::not_supported);
  EXPECT_EQ(log_level({.log_level = "loud"}, {}).error().code, Errc::invalid);
}

TEST(ServeOptions, AReloadNamesWhatItCannotChange) {
  config::Config before;
  config::Config after;
  after.log_level = log::Level::debug;
  after.listen = std::vector{*net::parse_endpoint("unix:/a")};
  after.volumes = std::vector<config::VolumeSpec>{{.name = "v", .size_bytes = 512}};
  after.connections = 3;
  after.requests_per_connection = 4;
  after.connection_in_flight_bytes = 5;
  after.handshake_timeout_s = 6;
  after.trash_retention_s = 7;
  EXPECT_THAT(fixed_changes(before, after), ElementsAre());
  EXPECT_EQ(reloadable(before, after), after);
  after.store = "memory:";
  after.control = "/c";
  after.insecure = true;
  after.tls = "on";
  after.read_only = true;
  after.io_threads = 7;
  after.in_flight_bytes = 1;
  after.store_bytes = 1;
  after.fdb.options = {{"tls_password", "p"}};
  EXPECT_THAT(fixed_changes(before, after),
              ElementsAre("store", "control", "insecure", "tls", "read_only", "io_threads",
                          "limits.in_flight_bytes", "memory.store_bytes", "fdb"));
  EXPECT_THAT(fixed_changes(before, reloadable(before, after)), ElementsAre());
}

TEST(Output, TablesAlignByCharacters) {
  EXPECT_EQ(format_table({{"NAME"}, {.title = "SIZE", .right_aligned = true}, {"END"}},
                         {{"größe", "1 GiB", "x"}, {"a", "512 B", "yy"}}),
            "NAME    SIZE  END\n"
            "größe  1 GiB  x\n"
            "a      512 B  yy\n");
  EXPECT_EQ(format_fields({{"A", "1"}, {"Long", "2"}}), "A:    1\nLong: 2\n");
  EXPECT_EQ(format_size_exactly(512), "512 bytes");
  EXPECT_EQ(format_size_exactly(1ULL << 30), "1 GiB (1073741824 bytes)");
}

TEST(Progress, TheBarFills) {
  EXPECT_EQ(format_bar(0, 100), "[..............................]   0.0%");
  EXPECT_EQ(format_bar(50, 100), "[###############...............]  50.0%");
  EXPECT_EQ(format_bar(100, 100), "[##############################] 100.0%");
  EXPECT_EQ(format_bar(200, 100), "[##############################] 100.0%");
  EXPECT_EQ(format_bar(5, 0), "[..............................]   0.0%");
}

TEST(ImageFormat, IsKnownByItsMagic) {
  const auto format = [](std::string beginning) { return detect_image_format(as_bytes(beginning)); };
  EXPECT_EQ(format(""), "raw");
  EXPECT_EQ(format("QFI"), "raw");
  EXPECT_EQ(format("QFI\xfb more"), "qcow2");
  EXPECT_EQ(format("KDMV"), "vmdk");
  EXPECT_EQ(format("# Disk DescriptorFile\n"), "vmdk");
  EXPECT_EQ(format("vhdxfile"), "vhdx");
  EXPECT_EQ(format("conectix"), "vpc");
  EXPECT_EQ(format(std::string(64, ' ') + "\x7f\x10\xda\xbe"), "vdi");
  EXPECT_EQ(format(std::string(512, '\0')), "raw");
}

TEST(Load, NamesAreReadAsWritten) {
  std::set<std::string> names;
  for (const bool writes : {false, true}) {
    for (const bool random : {false, true}) {
      const auto load = parse_load(load_name({.writes = writes, .random = random}));
      ASSERT_TRUE(load.has_value());
      EXPECT_EQ(load->writes, writes);
      EXPECT_EQ(load->random, random);
      names.insert(load_name(*load));
    }
  }
  EXPECT_EQ(names, (std::set<std::string>{"read", "randread", "write", "randwrite"}));
  EXPECT_EQ(parse_load("reads").error().code, Errc::invalid);
}

TEST(Load, PercentilesAreOrderStatistics) {
  std::vector<uint32_t> values;
  EXPECT_EQ(percentile(values, 50), 0);
  for (uint32_t i = 100; i >= 1; --i) values.push_back(i);
  EXPECT_EQ(percentile(values, 50), 50);
  EXPECT_EQ(percentile(values, 99), 99);
  EXPECT_EQ(percentile(values, 100), 100);
  std::vector<uint32_t> one = {7};
  EXPECT_EQ(percentile(one, 1), 7);
}

}  // namespace
}  // namespace fdbnbd::cli
