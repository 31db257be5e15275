namespace Ctkd.Fs

/// Logit standardisation (Sun et al. 2024, arXiv:2403.01427, algorithm 1) before any policy.
[<RequireQualifiedAccess>]
module Standardise =

    /// The policy on standardised logits (`Loss.standardise`): under `Scheduled.fixedAt 2.0` the published method, under
    /// `Ctkd.globalPolicy` a learned temperature on standardised logits.
    let policy (policy: Policy) : Policy = {
        policy with
            Name = policy.Name + "-standardised"
            Logits = Loss.standardise >> policy.Logits
    }
