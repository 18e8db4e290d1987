#include "attach/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fdbnbd::attach {
namespace {

using testing::ElementsAre;

TEST(DevicePath, OnlyWholeDevicesAreTaken) {
  EXPECT_EQ(parse_device_path("/dev/nbd0"), 0U);
  EXPECT_EQ(parse_device_path("/dev/nbd15"), 15U);
  EXPECT_EQ(device_path(15), "/dev/nbd15");
  for (const char* text : {"", "nbd0", "/dev/nbd", "/dev/nbd0p1", "/dev/nbd-1", "/dev/nbd 1", "/dev/sda",
                           "/dev/nbd99999999999", "/dev/nbd1048576"}) {
    const auto parsed = parse_device_path(text);
    ASSERT_FALSE(parsed.has_value()) << text;
    EXPECT_EQ(parsed.error().code, Errc::invalid) << text;
  }
}

TEST(Backend, NamesTheVolumeAndNothingElse) {
  EXPECT_EQ(volume_of(backend_of("vol@snap")), "vol@snap");
  EXPECT_EQ(volume_of("vol"), std::nullopt);
  EXPECT_EQ(volume_of(""), std::nullopt);
}

// A sysfs with what the tests put into it.
class DevicesTest : public testing::Test {
 protected:
  DevicesTest() {
    char name[] = "/tmp/fdb-nbd-attach-XXXXXX";
    root_ = ::mkdtemp(name);
  }
  ~DevicesTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }

  Devices devices() const { return Devices(root_); }

  std::filesystem::path root_;
};

TEST_F(DevicesTest, AttachedDevicesAreThoseWithAProcess) {
  write("nbd0/size", "0\n");
  write("nbd2/pid", "4711\n");
  write("nbd2/backend", "fdb-nbd:a volume\n");
  write("nbd10/pid", "12\n");
  write("sda/size", "1\n");
  write("nbdx/pid", "1\n");
  EXPECT_EQ(devices().find(0), std::nullopt);
  EXPECT_EQ(devices().find(1), std::nullopt);
  EXPECT_THAT(devices().list(),
              ElementsAre(AttachedDevice{.index = 2, .pid = 4711, .backend = "fdb-nbd:a volume"},
                          AttachedDevice{.index = 10, .pid = 12, .backend = ""}));
}

TEST_F(DevicesTest, TermsAreWhatTheKernelActsOn) {
  write("nbd0/size", "2048\n");
  write("nbd0/ro", "0\n");
  write("nbd0/queue/write_cache", "write back\n");
  write("nbd0/queue/fua", "1\n");
  write("nbd0/queue/discard_max_bytes", "2199023255040\n");
  EXPECT_EQ(devices().terms(0), (proto::ExportTerms{.size_bytes = 1 << 20,
                                                    .flags = proto::kFlagHasFlags | proto::kFlagSendFlush |
                                                             proto::kFlagSendFua | proto::kFlagSendTrim}));
  write("nbd1/size", "8\n");
  write("nbd1/ro", "1\n");
  write("nbd1/queue/write_cache", "write through\n");
  write("nbd1/queue/fua", "0\n");
  write("nbd1/queue/discard_max_bytes", "0\n");
  EXPECT_EQ(devices().terms(1),
            (proto::ExportTerms{.size_bytes = 4096, .flags = proto::kFlagHasFlags | proto::kFlagReadOnly}));
}

TEST_F(DevicesTest, AHostWithoutDevicesHasNone) {
  EXPECT_TRUE(Devices(root_ / "none").list().empty());
}

TEST(MountedAt, FindsTheDeviceAndItsPartitions) {
  const std::string mountinfo =
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "30 22 43:16 / /mnt/eleven rw - ext4 /dev/nbd11 rw\n"
      "31 22 43:0 /sub /mnt/bind rw,noatime shared:7 master:2 - ext4 /dev/nbd1 rw\n"
      "32 22 43:33 / /mnt/part rw - xfs /dev/nbd2p1 rw";
  EXPECT_EQ(mounted_at(mountinfo, "/dev/nbd11"), "/mnt/eleven");
  EXPECT_EQ(mounted_at(mountinfo, "/dev/nbd1"), "/mnt/bind");
  EXPECT_EQ(mounted_at(mountinfo, "/dev/nbd2"), "/mnt/part");
  EXPECT_EQ(mounted_at(mountinfo, "/dev/nbd3"), std::nullopt);
  EXPECT_EQ(mounted_at("", "/dev/nbd3"), std::nullopt);
  EXPECT_EQ(mounted_at("garbage\n\n - \n", "/dev/nbd3"), std::nullopt);
}

}  // namespace
}  // namespace fdbnbd::attach
