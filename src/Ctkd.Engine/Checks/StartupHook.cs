/// <summary>The runtime calls this before the program's own code if DOTNET_STARTUP_HOOKS names the assembly.</summary>
internal static class StartupHook
{
    /// <summary>Runs a check instead of the program.</summary>
    public static void Initialize() => Ctkd.Engine.ChildCheck.RunAsChild();
}
