#include "kv/fdb/api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "kv/fdb/network.h"

namespace fdbnbd::kv::fdb {
namespace {

using testing::HasSubstr;
using testing::Not;

class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Environment() { ::unsetenv(name_); }

 private:
  const char* name_;
};

TEST(FdbApi, AMissingLibraryIsOneLineThatSaysWhatToInstallAndWhatWasTried) {
  const auto api = load_api({"libfdb_c_nowhere.so", "/nonexistent/libfdb_c.so"});
  ASSERT_FALSE(api);
  EXPECT_EQ(api.error().code, Errc::unavailable);
  for (const char* part : {"foundationdb-clients", "libfdb_c_nowhere.so", "/nonexistent/libfdb_c.so"})
    EXPECT_THAT(api.error().what, HasSubstr(part));
  EXPECT_THAT(api.error().what, Not(HasSubstr("\n")));
}

TEST(FdbApi, AnotherLibraryIsRefusedByTheFunctionThatItLacks) {
  const auto api = load_api({"libm.so.6"});
  ASSERT_FALSE(api);
  EXPECT_EQ(api.error().code, Errc::unavailable);
  EXPECT_THAT(api.error().what, HasSubstr("fdb_get_error"));
}

TEST(FdbApi, TheNewestVersionThatBothSidesKnowIsTakenAndAnOldLibraryRefused) {
  EXPECT_EQ(load_api({FDBNBD_FAKE_FDB_LIBRARY})->version, 730);
  {
    const Environment older("FAKE_FDB_MAX_API_VERSION", "710");
    EXPECT_EQ(load_api({FDBNBD_FAKE_FDB_LIBRARY})->version, 710);
  }
  const Environment too_old("FAKE_FDB_MAX_API_VERSION", "630");
  const auto api = load_api({FDBNBD_FAKE_FDB_LIBRARY});
  ASSERT_FALSE(api);
  EXPECT_EQ(api.error().code, Errc::unavailable);
  EXPECT_THAT(api.error().what, HasSubstr("630"));
}

TEST(FdbApi, WhatALibraryNeedNotHaveIsNullWhereItIsMissing) {
  const auto api = load_api({FDBNBD_FAKE_FDB_LIBRARY});
  ASSERT_TRUE(api) << api.error().what;
  EXPECT_EQ(api->get_client_version, nullptr);
  EXPECT_NE(api->transaction_commit, nullptr);
}

TEST(FdbApi, ThePathOfTheOptionsComesBeforeTheEnvironmentAndThatBeforeTheUsualPlaces) {
  EXPECT_EQ(library_candidates("").front(), "libfdb_c.so");
  const Environment variable("FDB_NBD_FDB_LIBRARY", "/from/environment.so");
  EXPECT_EQ(library_candidates(""), std::vector<std::string>{"/from/environment.so"});
  EXPECT_EQ(library_candidates("/from/option.so"), std::vector<std::string>{"/from/option.so"});
}

TEST(FdbNetwork, OptionsAreEncodedAsTheLibraryTakesThem) {
  const auto text = encode_network_option({"knob", "a=1"});
  ASSERT_TRUE(text);
  EXPECT_EQ(text->code, 40);
  EXPECT_EQ(text->bytes, "a=1");
  const auto number = encode_network_option({"client_threads_per_version", "258"});
  ASSERT_TRUE(number);
  EXPECT_EQ(number->bytes, std::string("\x02\x01\0\0\0\0\0\0", 8));
  const auto flag = encode_network_option({"client_buggify_enable", ""});
  ASSERT_TRUE(flag);
  EXPECT_EQ(flag->bytes, "");
}

TEST(FdbNetwork, OptionsThatMakeNoSenseAreInvalid) {
  const NetworkOption options[] = {{"no_such_option", "1"},
                                   {"knob", ""},
                                   {"trace_roll_size", "much"},
                                   {"trace_roll_size", ""},
                                   {"disable_local_client", "1"}};
  for (const NetworkOption& option : options) {
    const auto encoded = encode_network_option(option);
    ASSERT_FALSE(encoded) << option.first;
    EXPECT_EQ(encoded.error().code, Errc::invalid);
    EXPECT_THAT(encoded.error().what, HasSubstr(option.first));
  }
}

TEST(FdbNetwork, IsStartedOnceWithOneLibraryAndOneSetOfOptions) {
  EXPECT_EQ(start_network(FDBNBD_FAKE_FDB_LIBRARY, {{"no_such_option", ""}}).error().code, Errc::invalid);
  const auto first = start_network(FDBNBD_FAKE_FDB_LIBRARY, {});
  ASSERT_TRUE(first) << first.error().what;
  EXPECT_EQ(*start_network(FDBNBD_FAKE_FDB_LIBRARY, {}), *first);
  EXPECT_EQ(start_network("/another/libfdb_c.so", {}).error().code, Errc::invalid);
  EXPECT_EQ(start_network(FDBNBD_FAKE_FDB_LIBRARY, {{"knob", "a=1"}}).error().code, Errc::invalid);
}

// In a process of its own, since it ends what all other tests need.
TEST(FdbNetworkDeathTest, OnceStoppedItStaysStopped) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto stop_and_start_again = [] {
    if (!start_network(FDBNBD_FAKE_FDB_LIBRARY, {})) std::_Exit(1);
    stop_network();
    stop_network();
    const auto again = start_network(FDBNBD_FAKE_FDB_LIBRARY, {});
    std::_Exit(!again && again.error().code == Errc::unavailable ? 0 : 2);
  };
  EXPECT_EXIT(stop_and_start_again(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fdbnbd::kv::fdb
