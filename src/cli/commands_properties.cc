#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "base/units.h"
#include "cli/commands.h"
#include "cli/output.h"

// What is noted on a volume beside its contents: labels, and the quota.

namespace fdbnbd::cli {

namespace {

struct LabelOptions {
  std::string name;
  std::vector<std::string> labels;
};

void add_label_set(CLI::App& labels, Context& context) {
  auto options = std::make_shared<LabelOptions>();
  CLI::App* verb = labels.add_subcommand("set", "Set labels of a volume, also while it is in use");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_option("KEY=VALUE", options->labels, "The labels")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::LabelSetRequest{.name = options->name, .labels = options->labels}));
      return {};
    };
  });
}

void add_label_remove(CLI::App& labels, Context& context) {
  auto options = std::make_shared<LabelOptions>();
  CLI::App* verb = labels.add_subcommand("rm", "Remove labels of a volume");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_option("KEY", options->labels, "Their keys; those that are not there do not matter")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      RETURN_IF_ERROR(
          context.ask(control::LabelRemoveRequest{.name = options->name, .labels = options->labels}));
      return {};
    };
  });
}

void add_label_list(CLI::App& labels, Context& context) {
  struct Options {
    std::string name;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = labels.add_subcommand("ls", "List the labels of a volume");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_flag("--json", options->json, "The volume with its labels, as JSON");
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const std::string result, context.ask(control::InfoRequest{options->name}));
      if (options->json) return print(result + "\n"), Result<void>();
      ASSIGN_OR_RETURN(const volume::VolumeInfo volume, control::read_volume(result));
      for (const auto& [key, value] : volume.labels) print(fmt::format("{}={}\n", key, value));
      return {};
    };
  });
}

void add_quota_set(CLI::App& quotas, Context& context) {
  struct Options {
    std::string name;
    std::string quota;
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = quotas.add_subcommand("set", "Bound what a volume uses, also while it is in use");
  verb->add_option("VOL", options->name, "The volume")->required();
  verb->add_option("SIZE", options->quota, "The bound, as 10G, or none")->required();
  verb->callback([options, &context] {
    context.run = [options, &context]() -> Result<void> {
      ASSIGN_OR_RETURN(const uint64_t quota_bytes, parse_quota(options->quota));
      RETURN_IF_ERROR(
          context.ask(control::QuotaSetRequest{.name = options->name, .quota_bytes = quota_bytes}));
      return {};
    };
  });
}

}  // namespace

Result<uint64_t> parse_quota(const std::string& text) {
  if (text == "none") return uint64_t{0};
  ASSIGN_OR_RETURN(const uint64_t quota_bytes, parse_size(text));
  if (quota_bytes == 0) return fail(Errc::invalid, "a quota of 0 would allow nothing: use none for no bound");
  return quota_bytes;
}

void add_property_commands(CLI::App& app, Context& context) {
  CLI::App* labels =
      app.add_subcommand("label", "Set, remove or list labels of a volume; ls --label finds them");
  labels->require_subcommand(1);
  add_label_set(*labels, context);
  add_label_remove(*labels, context);
  add_label_list(*labels, context);
  CLI::App* quotas = app.add_subcommand(
      "quota", "Bound what a volume uses: writes that would need more fail with \"no space\"");
  quotas->require_subcommand(1);
  add_quota_set(*quotas, context);
}

}  // namespace fdbnbd::cli
