#include "proto/errno_map.h"

#include <gtest/gtest.h>

#include <map>

namespace fdbnbd::proto {
namespace {

constexpr int kErrcCount = static_cast<int>(Errc::newer_format) + 1;

// What WRITE, READ and WRITE_ZEROES with FAST_ZERO are answered.
struct Row {
  NbdError write;
  NbdError read;
  NbdError fast_zero;
};
constexpr Row same(NbdError error) {
  return {error, error, error};
}

const std::map<Errc, Row>& table() {
  using enum NbdError;
  static const std::map<Errc, Row> rows = {
      {Errc::conflict, same(eio)},
      {Errc::unavailable, same(eio)},
      {Errc::unknown_result, same(eio)},
      {Errc::invalid, same(einval)},
      {Errc::past_end, {enospc, einval, enospc}},
      {Errc::not_supported, {einval, einval, enotsup}},
      {Errc::too_large, same(einval)},
      {Errc::read_only, same(eperm)},
      {Errc::no_space, same(enospc)},
      {Errc::not_found, same(eio)},
      {Errc::exists, same(eio)},
      {Errc::busy, same(eio)},
      {Errc::permission, same(eperm)},
      {Errc::differs, same(eio)},
      {Errc::io, same(eio)},
      {Errc::protocol, same(eio)},
      {Errc::peer_gone, same(eio)},
      {Errc::timeout, same(eio)},
      {Errc::cancelled, same(eio)},
      {Errc::fenced, same(eio)},
      {Errc::corruption, same(eio)},
      {Errc::newer_format, same(eio)},
  };
  return rows;
}

Request request(Command command, uint16_t flags = 0) {
  return {.flags = flags, .command = command};
}

TEST(ErrnoMap, TableNamesEveryErrc) {
  EXPECT_EQ(table().size(), kErrcCount);
  for (int code = 0; code < kErrcCount; ++code) EXPECT_TRUE(table().contains(Errc{code})) << code;
}

TEST(ErrnoMap, EveryErrcHasItsErrno) {
  for (const auto& [code, row] : table()) {
    EXPECT_EQ(error_for(code, request(Command::write)), row.write) << errc_name(code);
    EXPECT_EQ(error_for(code, request(Command::read)), row.read) << errc_name(code);
    EXPECT_EQ(error_for(code, request(Command::write_zeroes, kCmdFlagFastZero)), row.fast_zero)
        << errc_name(code);
  }
}

TEST(ErrnoMap, PastEndIsNoSpaceOnlyForWriteAndWriteZeroes) {
  for (const auto command : {Command::write, Command::write_zeroes})
    EXPECT_EQ(error_for(Errc::past_end, request(command)), NbdError::enospc);
  for (const auto command : {Command::read, Command::trim, Command::cache, Command::block_status})
    EXPECT_EQ(error_for(Errc::past_end, request(command)), NbdError::einval);
}

TEST(ErrnoMap, NotSupportedIsOnlyForFastZero) {
  for (uint16_t command = 0; command < 10; ++command) {
    const bool is_zeroes = Command{command} == Command::write_zeroes;
    EXPECT_EQ(error_for(Errc::not_supported, request(Command{command}, kCmdFlagFastZero)),
              is_zeroes ? NbdError::enotsup : NbdError::einval);
    EXPECT_EQ(error_for(Errc::not_supported, request(Command{command})), NbdError::einval);
  }
}

TEST(ErrnoMap, NothingIsSuccessOrShutdown) {
  for (const auto& [code, row] : table()) {
    for (uint16_t command = 0; command < 10; ++command) {
      for (const uint16_t flags : {uint16_t{0}, kCmdFlagFastZero, uint16_t{0xffff}}) {
        const NbdError error = error_for(code, request(Command{command}, flags));
        EXPECT_NE(error, NbdError::ok) << errc_name(code);
        EXPECT_NE(error, NbdError::eshutdown) << errc_name(code);
        EXPECT_NE(error, NbdError::enomem) << errc_name(code);
        EXPECT_NE(error, NbdError::eoverflow) << errc_name(code);
      }
    }
  }
}

TEST(ErrnoMap, EveryErrcRefusesAnOption) {
  using enum OptionReply;
  const std::map<Errc, OptionReply> rows = {
      {Errc::conflict, err_unknown},
      {Errc::unavailable, err_unknown},
      {Errc::unknown_result, err_unknown},
      {Errc::invalid, err_invalid},
      {Errc::past_end, err_unknown},
      {Errc::not_supported, err_policy},
      {Errc::too_large, err_too_big},
      {Errc::read_only, err_policy},
      {Errc::no_space, err_unknown},
      {Errc::not_found, err_unknown},
      {Errc::exists, err_unknown},
      {Errc::busy, err_unknown},
      {Errc::permission, err_policy},
      {Errc::differs, err_unknown},
      {Errc::io, err_unknown},
      {Errc::protocol, err_unknown},
      {Errc::peer_gone, err_unknown},
      {Errc::timeout, err_unknown},
      {Errc::cancelled, err_shutdown},
      {Errc::fenced, err_unknown},
      {Errc::corruption, err_unknown},
      {Errc::newer_format, err_unknown},
  };
  EXPECT_EQ(rows.size(), kErrcCount);
  for (const auto& [code, type] : rows) EXPECT_EQ(option_error_for(code), type) << errc_name(code);
}

}  // namespace
}  // namespace fdbnbd::proto
