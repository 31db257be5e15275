/// The losses of actor and critic (F15, F16).
module Ctkd.Fs.Tests.PpoTests

open Expecto
open Ctkd.Fs
open Ctkd.Fs.Tests.Generators
open Ctkd.Fs.Tests.Parts
open Ctkd.Fs.Tests.Reference

let private shared = RlkdSpread.Shared 10

/// The batch of 64 transitions and the two networks of F15 and F16.
let private transitions () =
    let learner pack : Learner =
        let weights = formula pack
        let zeros () = Tensor.scale 0.0 weights
        { Pack = pack; Weights = weights; First = zeros (); Second = zeros () }

    let actor, critic = Actor.pack shared 3, Critic.pack 3
    let actorLearner, criticLearner = learner actor, learner critic
    let states, t = trajectory 64, vector 64 (fun i -> 5.0 + 4.0 * sin (0.77 * i))
    let policy = Actor.forward shared (Pack.views actor actorLearner.Weights) states
    let old = Actor.logLikelihood RlkdLikelihood.Temperature t t policy + vector 64 (fun i -> 0.05 * sin i)
    let values = Critic.forward (Pack.views critic criticLearner.Weights) states
    let rewards, beyond = Corrector.sparse 64 (Plain.number 0.3), Plain.tensor [ 1 ] [| 0.0 |]
    let advantages = Advantage.generalised 0.99 0.95 rewards values beyond

    advantages,
    {
        ActorStates = states
        CriticStates = states
        Draws = t
        Temperatures = t
        Before = old
        Advantages = Advantage.zScored advantages
        Returns = Advantage.returns 0.99 rewards beyond
    },
    (actor, actorLearner),
    (critic, criticLearner)

let tests =
    testList "Ppo" [
        testProperty "the surrogate is minus the mean advantage at the ratio 1, with the policy gradient as its slope"
        <| forAll
            Inputs.seeds
            (fun seed ->
                Tensor.scoped (fun () ->
                    let before, advantages = normals seed [ 5 ], normals (seed + 1) [ 5 ]
                    let after = Autograd.leaf before
                    let loss = Ppo.surrogate 0.2 before after advantages
                    Must.beNear 1e-12 1e-12 -(Tensor.toFloat (Tensor.mean advantages)) (Tensor.toFloat loss)
                    let slope = Autograd.gradients loss [| after |] |> Array.head |> Tensor.toFloats

                    Must.beClose 1e-12 1e-12 (Tensor.toFloats advantages |> Array.map (fun a -> -a / 5.0)) slope
                )
            )

        test "a ratio beyond the clip that helps has no slope" {
            Tensor.scoped (fun () ->
                let before = row [| 0.0; 0.0; 0.0; 0.0 |]
                let after = Autograd.leaf (row [| log 1.3; log 0.7; log 1.3; log 0.7 |])
                let loss = Ppo.surrogate 0.2 before after (row [| 1.0; -1.0; -1.0; 1.0 |])
                let slope = Autograd.gradients loss [| after |] |> Array.head |> Tensor.toFloats
                Must.beClose 1e-12 1e-12 [| 0.0; 0.0; 1.3 / 4.0; -0.7 / 4.0 |] slope
            )
        }

        test "the losses of PPO, and the networks after its passes" {
            reading (fun expected ->
                let advantages, batch, (actor, ofActor), (critic, ofCritic) = transitions ()
                let ends x = let values = Tensor.toFloats x in [| Array.head values; Array.last values |]
                Must.beClose 1e-5 0.0 (expected "ppo_one_step.ret_first_last") (ends batch.Returns)
                Must.beClose 1e-5 1e-6 (expected "ppo_one_step.adv_raw_first_last") (ends advantages)

                Must.beClose
                    1e-5
                    0.0
                    (expected "ppo_one_step.logp_old_first3")
                    (Array.truncate 3 (Tensor.toFloats batch.Before))

                let ppo, taken = RlkdConfig.official.Ppo, Plain.number 0.0
                let criticLoss = Ppo.criticPasses ppo taken ofCritic batch |> Tensor.toFloats
                Must.beClose 1e-5 0.0 (expected "ppo_one_step.c_loss") criticLoss
                let actorLoss = Ppo.actorPasses ppo shared RlkdLikelihood.Temperature taken ofActor batch
                Must.beClose 1e-5 0.0 (expected "ppo_one_step.a_loss") (Tensor.toFloats actorLoss)
                let policy = Actor.forward shared (Pack.views actor ofActor.Weights) (states ())
                Must.beClose 2e-3 0.0 (expected "ppo_update_64.mu_after") (Tensor.toFloats policy.Mean)
                let values = Critic.forward (Pack.views critic ofCritic.Weights) (states ())
                Must.beClose 2e-3 0.0 (expected "ppo_update_64.v_after") (Tensor.toFloats values)
                let size (learner: Learner) = Tensor.toFloats (Tensor.sum (Tensor.abs learner.Weights))
                Must.beClose 1e-5 0.0 (expected "ppo_update_64.actor_abs_sum") (size ofActor)
                Must.beClose 1e-5 0.0 (expected "ppo_update_64.critic_abs_sum") (size ofCritic)

                let deviation = Pack.views actor ofActor.Weights |> Array.last |> Tensor.sum |> Tensor.toFloats

                Must.beClose 2e-3 0.0 (expected "ppo_update_64.log_std_sum") deviation
            )
        }
    ]
